// Finds objects in pictures with an ONNX file of export.py, by OpenCV alone: what detect.py does, in C++.
//
//     detect best.onnx new-folder pictures...       (or one folder of pictures)
//
// new-folder/labels/*.txt get rows `class cx cy w h confidence`, as detect.py --save-txt --save-conf writes them;
// new-folder/*.jpg are the pictures with their boxes. An error is one line, and the exit status 1.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <opencv2/core/utils/logger.hpp>
#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

namespace fs = std::filesystem;
using Error = std::runtime_error;
constexpr float confThres = 0.25F;  // detect.py's defaults
constexpr double iouThres = 0.45;
constexpr std::size_t maxDet = 1000;

// What the network's file says of itself ------------------------------------------------------------------------------

// A protobuf message: a row of fields, each a number, a kind and a value. Nothing beyond its end is ever read.
class Fields {
public:
    explicit Fields(std::string_view data) : rest(data) {}

    // The next field's number and, of kind 2, its bytes; false at the end.
    bool next(std::uint64_t& number, std::string_view& value) {
        if (rest.empty()) return false;
        const std::uint64_t key = varint();
        number = key >> 3;
        value = {};
        switch (key & 7) {
            case 0: varint(); break;
            case 1: take(8); break;
            case 2: value = take(varint()); break;
            case 5: take(4); break;
            default: throw Error("not an ONNX file, or a damaged one");
        }
        return true;
    }

private:
    std::string_view take(std::uint64_t size) {
        if (size > rest.size()) throw Error("not an ONNX file, or a damaged one");
        const std::string_view taken = rest.substr(0, size);
        rest.remove_prefix(size);
        return taken;
    }

    std::uint64_t varint() {  // 7 bits a byte, lowest first
        std::uint64_t value = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            const auto byte = static_cast<unsigned char>(take(1)[0]);
            value |= static_cast<std::uint64_t>(byte & 127) << shift;
            if (byte < 128) return value;
        }
        throw Error("not an ONNX file, or a damaged one");
    }
    std::string_view rest;
};

// metadata_props, field 14 of ONNX's ModelProto: entries of a key, field 1, and a text, field 2.
std::map<std::string, std::string> readTexts(std::string_view model) {
    std::map<std::string, std::string> texts;
    std::uint64_t number = 0;
    std::string_view value, part;
    for (Fields fields(model); fields.next(number, value);) {
        if (number != 14) continue;
        std::string key, text;
        for (Fields entry(value); entry.next(number, part);) {
            if (number == 1) key = part;
            if (number == 2) text = part;
        }
        texts[key] = text;
    }
    return texts;
}

bool isDigit(char c) { return c >= '0' && c <= '9'; }
int readNumber(const std::string& text, const std::string& key, int most) {
    const bool isNumber = !text.empty() && text.size() < 9 && std::all_of(text.begin(), text.end(), isDigit);
    const int number = isNumber ? std::stoi(text) : 0;
    if (number < 1 || number > most) throw Error("its metadata is damaged: " + key);
    return number;
}

// The items of a JSON list as export.py writes it, of texts with no other escapes than \" \\ \/, or of whole numbers.
std::vector<std::string> readList(const std::string& json, const std::string& key) {
    const Error damaged("its metadata is damaged: " + key);
    std::vector<std::string> items;
    std::size_t at = 0;
    const auto peek = [&] { return at < json.size() ? json[at] : '\0'; };
    const auto expect = [&](char wanted) {
        if (peek() != wanted) throw damaged;
        for (++at; wanted != '"' && peek() == ' ';) ++at;
    };
    for (expect('['); peek() != ']';) {
        if (!items.empty()) expect(',');
        std::string& item = items.emplace_back();
        while (isDigit(peek())) item += json[at++];
        if (!item.empty()) continue;
        for (expect('"'); peek() != '"'; item += json[at++]) {
            const bool isEscape = peek() == '\\';
            at += isEscape;
            if (at >= json.size() || (isEscape && std::string_view("\"\\/").find(json[at]) == std::string::npos))
                throw damaged;
        }
        ++at;
    }
    return items;
}

struct Metadata {
    std::vector<std::string> names;
    int height, width;  // of the images that the network takes
};

Metadata readMetadata(std::string_view model) {
    auto texts = readTexts(model);
    for (const char* key : {"names", "stride", "imgsz", "dynamic", "batch"})
        if (!texts.count(key)) throw Error(std::string("its metadata has no ") + key + "; export it with export.py");
    if (texts["dynamic"] != "[]" || texts["batch"] != "1" || texts["precision"] != "fp32")
        throw Error("wanted is one of a fixed size: export it without --dynamic, --batch-size and --half");
    const auto names = readList(texts["names"], "names"), sides = readList(texts["imgsz"], "imgsz");
    if (names.empty() || names.size() > 100000 || sides.size() != 2) throw Error("its metadata is damaged");
    const int stride = readNumber(texts["stride"], "stride", 1024);
    const int height = readNumber(sides[0], "imgsz", 8192), width = readNumber(sides[1], "imgsz", 8192);
    if (height % stride || width % stride) throw Error("its metadata is damaged: imgsz is no multiple of stride");
    return {names, height, width};
}

// Network and boxes ---------------------------------------------------------------------------------------------------

struct Detection {
    float x1, y1, x2, y2, confidence;
    int kind;
};

// A picture fitted into the network's size, gray around it; an odd padding has its extra pixel at the right and below.
cv::Mat letterbox(const cv::Mat& picture, const Metadata& to) {
    const double ratio = std::min(double(to.height) / picture.rows, double(to.width) / picture.cols);
    const auto scaled = [&](int side) { return std::max(int(std::nearbyint(side * ratio)), 1); };
    const cv::Size size(scaled(picture.cols), scaled(picture.rows));
    cv::Mat fitted = picture;
    if (size != picture.size()) cv::resize(picture, fitted, size, 0, 0, cv::INTER_LINEAR);
    const int left = int(std::nearbyint((to.width - size.width) / 2.0 - 0.1)), right = to.width - size.width - left;
    const int top = int(std::nearbyint((to.height - size.height) / 2.0 - 0.1)), below = to.height - size.height - top;
    cv::copyMakeBorder(fitted, fitted, top, below, left, right, cv::BORDER_CONSTANT, {114, 114, 114});
    return fitted;
}

// Rows of centre, width, height, objectness and class scores -> what could be an object, each of its best class.
std::vector<Detection> decode(const cv::Mat& output, int classes) {
    if (output.dims != 3 || output.size[0] != 1 || output.type() != CV_32F || output.size[2] != 5 + classes)
        throw Error("the network does not give (1, boxes, 5 + classes); export it without --train and --nms");
    std::vector<Detection> found;
    for (int i = 0; i < output.size[1]; ++i) {
        const float* row = output.ptr<float>(0, i);
        const float x = row[0], y = row[1], w = row[2], h = row[3], objectness = row[4];
        if (!(objectness > confThres) || std::isinf(objectness)) continue;  // NaN is neither
        if (!(w >= 2 && w <= 7680 && h >= 2 && h <= 7680 && std::abs(x) <= 15360 && std::abs(y) <= 15360)) continue;
        Detection best{x - w / 2, y - h / 2, x + w / 2, y + h / 2, confThres, -1};
        for (int kind = 0; kind < classes; ++kind) {
            const float score = row[5 + kind] * objectness;
            if (score > best.confidence && std::isfinite(score)) best.confidence = score, best.kind = kind;
        }
        if (best.kind >= 0) found.push_back(best);
    }
    return found;
}

double iouOf(const Detection& a, const Detection& b) {
    const double w = std::min<double>(a.x2, b.x2) - std::max<double>(a.x1, b.x1);
    const double h = std::min<double>(a.y2, b.y2) - std::max<double>(a.y1, b.y1);
    const auto area = [](const Detection& d) { return (double(d.x2) - d.x1) * (double(d.y2) - d.y1); };
    const double common = std::max(w, 0.0) * std::max(h, 0.0);
    return common / (area(a) + area(b) - common);
}

// Of boxes of one class that overlap, the surest stays; surest first.
std::vector<Detection> suppress(std::vector<Detection> found) {
    std::stable_sort(found.begin(), found.end(), [](auto& a, auto& b) { return a.confidence > b.confidence; });
    found.resize(std::min<std::size_t>(found.size(), 30000));
    std::vector<Detection> kept;
    for (const Detection& d : found) {
        if (kept.size() == maxDet) break;
        const auto hidesIt = [&](const Detection& surer) { return surer.kind == d.kind && iouOf(surer, d) > iouThres; };
        if (std::none_of(kept.begin(), kept.end(), hidesIt)) kept.push_back(d);
    }
    return kept;
}

// Boxes of the network's image become such of whole pixels of the picture.
void toPicture(std::vector<Detection>& found, const cv::Size& picture, const Metadata& net) {
    const double ratio = std::min(double(net.height) / picture.height, double(net.width) / picture.width);
    const auto back = [&](float value, int netSide, int side) {
        const auto pad = float((netSide - side * ratio) / 2);
        return std::nearbyint(std::clamp((value - pad) / float(ratio), 0.0F, float(side)));
    };
    for (Detection& d : found) {
        d.x1 = back(d.x1, net.width, picture.width), d.x2 = back(d.x2, net.width, picture.width);
        d.y1 = back(d.y1, net.height, picture.height), d.y2 = back(d.y2, net.height, picture.height);
    }
}

// Files ---------------------------------------------------------------------------------------------------------------

void writeLabels(const fs::path& path, const std::vector<Detection>& found, const cv::Size& picture) {
    std::ofstream file(path);
    const auto w = float(picture.width), h = float(picture.height);
    for (const Detection& d : found)
        file << cv::format("%d %g %g %g %g %g\n", d.kind, (d.x1 + d.x2) / 2 / w, (d.y1 + d.y2) / 2 / h,
                           (d.x2 - d.x1) / w, (d.y2 - d.y1) / h, d.confidence);
    if (!file.flush()) throw Error(path.string() + ": cannot be written");
}

void draw(cv::Mat& picture, const std::vector<Detection>& found, const std::vector<std::string>& names) {
    for (const Detection& d : found) {
        cv::Mat color(1, 1, CV_8UC3, cv::Scalar((d.kind * 47) % 180, 200, 255));
        cv::cvtColor(color, color, cv::COLOR_HSV2BGR);
        const cv::Scalar bgr = color.at<cv::Vec3b>(0, 0);
        const cv::Point corner(int(d.x1), int(d.y1)), place(corner.x, std::max(corner.y - 5, 15));
        cv::rectangle(picture, corner, cv::Point(int(d.x2), int(d.y2)), bgr, 2, cv::LINE_AA);
        const std::string label = names[std::size_t(d.kind)] + cv::format(" %.2f", d.confidence);
        cv::putText(picture, label, place, cv::FONT_HERSHEY_SIMPLEX, 0.5, bgr, 1, cv::LINE_AA);
    }
}

// The pictures that names stand for: files, or all pictures in a folder.
std::vector<fs::path> findPictures(const std::vector<std::string>& named) {
    std::vector<fs::path> found(named.begin(), named.end());
    if (found.size() != 1 || !fs::is_directory(found[0])) return found;
    found.clear();
    for (const auto& entry : fs::directory_iterator(named[0]))
        if (entry.is_regular_file() && cv::haveImageReader(entry.path().string())) found.push_back(entry.path());
    if (found.empty()) throw Error(named[0] + ": no picture lies there");
    std::sort(found.begin(), found.end());
    return found;
}

int detect(const std::string& file, const fs::path& folder, const std::vector<fs::path>& pictures) {
    std::ifstream stream(file, std::ios::binary);
    const std::string model{std::istreambuf_iterator<char>(stream), {}};
    if (model.empty()) throw Error("cannot be read, or is empty");
    const Metadata meta = readMetadata(model);
    cv::dnn::Net net = cv::dnn::readNetFromONNX(model.data(), model.size());
    int unread = 0;
    if (fs::exists(folder)) throw Error(folder.string() + " is there already; name a new folder");
    fs::create_directories(folder / "labels");
    std::set<std::string> stems;
    for (const fs::path& path : pictures) {
        cv::Mat picture = cv::imread(path.string(), cv::IMREAD_COLOR), output;
        if (picture.empty()) {
            unread += std::fprintf(stderr, "detect: %s: not a readable picture\n", path.c_str());
            continue;
        }
        net.setInput(cv::dnn::blobFromImage(letterbox(picture, meta), 1 / 255.0, {}, {}, true));
        net.forward(output);
        auto found = suppress(decode(output, int(meta.names.size())));
        toPicture(found, picture.size(), meta);
        std::reverse(found.begin(), found.end());  // the surest is written and drawn last
        std::string stem = path.stem().string();
        for (int i = 2; !stems.insert(stem).second; ++i) stem = path.stem().string() + std::to_string(i);
        if (!found.empty()) writeLabels(folder / "labels" / (stem + ".txt"), found, picture.size());
        draw(picture, found, meta.names);
        if (!cv::imwrite((folder / (stem + ".jpg")).string(), picture)) throw Error(stem + ".jpg cannot be written");
        std::printf("%s: %zu objects\n", path.c_str(), found.size());
    }
    return unread ? 1 : 0;
}

int main(int count, char** words) {
    if (count < 4) return std::fputs("usage: detect best.onnx new-folder pictures...\n", stderr), 2;
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);  // its errors come as exceptions
    std::string text;
    try {
        return detect(words[1], words[2], findPictures({words + 3, words + count}));
    } catch (const cv::Exception& error) {
        text = cv::format("OpenCV %s cannot run it (was it exported with --simplify?): ", CV_VERSION) + error.err;
    } catch (const std::exception& error) {
        text = error.what();
    }
    std::replace(text.begin(), text.end(), '\n', ' ');
    std::fprintf(stderr, "detect: %s: %.300s\n", words[1], text.c_str());
    return 1;
}
