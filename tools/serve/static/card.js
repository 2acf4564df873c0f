// What is known of the model, and the list of its classes. All text is set as text, whatever a name looks like.

function element(tag, text = "", attributes = {}) {
  const made = Object.assign(document.createElement(tag), attributes);
  if (text !== "") made.textContent = text;
  return made;
}

function sizeOf(bytes) {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function gateTable(rows) {
  const table = element("table");
  table.append(element("caption", "NAM gates in the last picture"));
  const head = element("tr");
  for (const title of ["layer", "channels", "mean", "std", "min", "max"]) head.append(element("th", title));
  table.append(head);
  for (const row of rows) {
    const line = element("tr");
    line.append(element("td", row.layer.replace(/^model\./, "")), element("td", row.channels));
    for (const key of ["mean", "std", "min", "max"]) line.append(element("td", row[key] === null ? "-" : row[key].toFixed(3)));
    table.append(line);
  }
  return table;
}

// The NAM layers that an exported file names, whose gates cannot be seen.
function layersOf(card) {
  try {
    const nam = JSON.parse(card.details.nam ?? "{}");
    return nam.layers?.length ? `${nam.variant}: ${nam.layers.join(", ")}` : "";
  } catch {
    return card.details.nam;
  }
}

export function showCard(place, card) {
  const list = element("dl");
  const add = (name, ...values) => {
    if (!values[0]) return;
    const cell = element("dd");
    cell.append(...values);
    list.append(element("dt", name), cell);
  };
  for (const file of card.files) {
    add("file", `${file.name}, ${sizeOf(file.bytes)}`);
    add("sha256", element("code", file.sha256));
  }
  add("classes", `${card.names.length}`);
  add("images", `${card.imgsz.join(" x ")} pixels, stride ${card.stride}`);
  add("parameters", card.parameters?.toLocaleString("en") ?? "");
  add("precision", card.details.precision ?? "");
  add("NAM", card.nam.length ? `${card.nam.length} ${card.nam.length === 1 ? "layer" : "layers"}` : layersOf(card) || "none");
  place.replaceChildren(list, ...(card.nam.length ? [gateTable(card.nam)] : []));
}

// hidden: the set of class numbers that are not shown, which the boxes here change; onChange is called after that.
export function showClasses(place, [all, none], card, hidden, onChange) {
  const boxes = card.names.map((name, index) => {
    const label = element("label", "", { className: "check" });
    const box = element("input", "", { type: "checkbox", checked: true });
    const patch = element("i");
    patch.style.background = card.colors[index % card.colors.length];
    const count = element("span", "", { className: "count" });
    count.dataset.index = index;
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(index);
      else hidden.add(index);
      onChange();
    });
    label.append(box, patch, element("span", name, { className: "name" }), count);
    place.append(label);
    return box;
  });
  const set = (isShown) => {
    boxes.forEach((box, index) => {
      box.checked = isShown;
      if (isShown) hidden.delete(index);
      else hidden.add(index);
    });
    onChange();
  };
  all.addEventListener("click", () => set(true));
  none.addEventListener("click", () => set(false));
}
