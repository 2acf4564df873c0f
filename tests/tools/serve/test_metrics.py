"""Prometheus' text: counters, histograms, gauges, labels."""

from tools.serve.metrics import Metrics, sample


def test_all_kinds():
    metrics = Metrics()
    for path, status in (("/detect", "200"), ("/detect", "200"), ("/", "404")):
        metrics.add("requests_total", path=path, status=status)
    for count in (1, 2, 3, 32, 33):
        metrics.add("batch_images", count)
    lines = metrics.text({"waiting_images": ("Images that wait.", 7)}).splitlines()
    assert 'yolov5_requests_total{path="/detect",status="200"} 2' in lines
    assert 'yolov5_requests_total{path="/",status="404"} 1' in lines
    start = lines.index("# TYPE yolov5_batch_images histogram")
    assert lines[start + 1 : start + 10] == [
        *(
            f'yolov5_batch_images_bucket{{le="{bound}"}} {n}'
            for bound, n in zip(["1", "2", "4", "8"], (1, 2, 3, 3), strict=True)
        ),
        'yolov5_batch_images_bucket{le="16"} 3',
        'yolov5_batch_images_bucket{le="32"} 4',
        'yolov5_batch_images_bucket{le="+Inf"} 5',
        "yolov5_batch_images_sum 71",
        "yolov5_batch_images_count 5",
    ]
    assert lines[-3:] == [
        "# HELP yolov5_waiting_images Images that wait.",
        "# TYPE yolov5_waiting_images gauge",
        "yolov5_waiting_images 7",
    ]
    assert "yolov5_images_total 0" in lines


def test_labels_are_escaped():
    assert sample("a", (("b", 'c"\\\nd'),), 0.5) == 'a{b="c\\"\\\\\\nd"} 0.5'
