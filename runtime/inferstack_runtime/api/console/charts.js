// Two small drawings as SVG.

const SVG = "http://www.w3.org/2000/svg";

function svg(width, height, label) {
  const made = document.createElementNS(SVG, "svg");
  made.setAttribute("viewBox", `0 0 ${width} ${height}`);
  made.setAttribute("preserveAspectRatio", "none");
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", label);
  return made;
}

// One bar per value (milliseconds); the first, a time to first token, in its own colour and capped so that the others stay readable.
export function bars(into, values) {
  const rest = values.slice(1);
  const most = Math.max(1, ...rest, rest.length ? 0 : values[0] ?? 0);
  const made = svg(Math.max(values.length, 40), 100, `${values.length} pieces, longest gap ${most.toFixed(0)} milliseconds`);
  values.forEach((value, index) => {
    const height = Math.max(1, Math.min(1, value / most) * 98);
    const bar = document.createElementNS(SVG, "rect");
    const place = { x: index + 0.1, y: 100 - height, width: 0.8, height, class: index ? "" : "first" };
    for (const [name, number] of Object.entries(place)) bar.setAttribute(name, number);
    const title = document.createElementNS(SVG, "title");
    title.textContent = `${index + 1}: ${value.toFixed(1)} ms`;
    bar.append(title);
    made.append(bar);
  });
  into.replaceChildren(made);
}

// A line of values from left (old) to right (new).
export function line(into, values, label) {
  const most = Math.max(0.001, ...values);
  const made = svg(100, 30, label);
  const points = values.map((value, index) => `${(index / Math.max(1, values.length - 1)) * 100},${29 - (value / most) * 27}`);
  const drawn = document.createElementNS(SVG, "polyline");
  drawn.setAttribute("points", points.join(" "));
  made.append(drawn);
  into.replaceChildren(made);
}
