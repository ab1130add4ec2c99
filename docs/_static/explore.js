/* The figures of explore.md: the losses of one row, as xent computes them, and what sliders make of them. */
"use strict";

/* Loss of one row of logits, its gradient and softmax, under a temperature T, label smoothing e and focal gamma. */
function rowLoss(logits, target, { T, e, gamma }) {
  const C = logits.length;
  const z = logits.map((x) => x / T);
  const m = Math.max(...z);
  const top = z.indexOf(m);
  const exps = z.map((x) => Math.exp(x - m));
  const rest = exps.reduce((sum, x, c) => (c === top ? sum : sum + x), 0);
  const nll = (c) => Math.log1p(rest) + (m - z[c]);
  const p = exps.map((x) => x / (1 + rest));
  if (gamma > 0) {
    // 1 - p of the target, by the probabilities of the others: nothing cancels.
    const others = p.reduce((sum, x, c) => (c === target ? sum : sum + x), 0);
    const slope = others > 0 ? (p[target] * nll(target)) / others : 1;
    const s = others ** gamma * (1 + gamma * slope);
    const grad = p.map((x, c) => (s * (c === target ? -others : x)) / T);
    return { loss: others ** gamma * nll(target), grad, p };
  }
  const weight = (c) => (c === target ? 1 - e : 0) + e / C;
  const loss = z.reduce((sum, x, c) => sum + weight(c) * nll(c), 0);
  return { loss, grad: p.map((x, c) => (x - weight(c)) / T), p };
}

/* The same as a call in Python. */
function pythonCall(logits, target, { T, e, gamma }) {
  const option = gamma > 0 ? `gamma=${gamma}` : `label_smoothing=${e}`;
  const name = gamma > 0 ? "focal_loss" : "cross_entropy";
  return `xent.${name}([${logits.join(", ")}], ${target}, temperature=${T}, ${option}, return_grad=True)`;
}

const SVG = "http://www.w3.org/2000/svg";

function element(parent, name, attributes = {}, text = "") {
  const inside = parent instanceof SVGElement || name === "svg";
  const made = inside ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return parent.appendChild(made);
}

function slider(parent, name, label, { min, max, step, value }, changed) {
  const row = element(parent, "label", { class: "explore-slider" });
  element(row, "span", {}, label);
  const input = element(row, "input", { type: "range", name, min, max, step, value });
  const output = element(row, "output", {}, String(value).replace("-", "−"));
  input.addEventListener("input", () => {
    output.textContent = input.value.replace("-", "−");
    changed(input);
  });
  return {
    get value() { return Number(input.value); },
    set value(x) { input.value = x; output.textContent = input.value; },
  };
}

/* Sliders for the options; label smoothing and gamma are of different losses, so that one of them is 0. */
function options(parent, changed) {
  const also = (other) => (input) => {
    if (Number(input.value) > 0) other().value = 0;
    changed();
  };
  const T = slider(parent, "temperature", "temperature", { min: 0.25, max: 4, step: 0.25, value: 1 }, changed);
  const e = slider(parent, "smoothing", "label smoothing", { min: 0, max: 0.9, step: 0.05, value: 0 }, also(() => gamma));
  const gamma = slider(parent, "gamma", "focal gamma", { min: 0, max: 5, step: 0.5, value: 0 }, also(() => e));
  return () => ({ T: T.value, e: e.value, gamma: gamma.value });
}

function show(cell, value, digits = 4) {
  cell.dataset.value = value;
  cell.textContent = value.toFixed(digits).replace("-", "−");
}

/* Five logits: probabilities and gradient of each class, as bars and numbers. */
function exploreRow(root) {
  const controls = element(root, "div", { class: "explore-controls" });
  const read = options(controls, () => draw());
  const table = element(root, "table", { class: "explore-row" });
  const head = element(element(table, "thead"), "tr");
  for (const title of ["target", "logit", "softmax", "gradient"]) element(head, "th", {}, title);
  const body = element(table, "tbody");
  const rows = [2, 1, 0, -1, 0.5].map((value, c) => {
    const row = element(body, "tr");
    const radio = element(element(row, "td"), "input", { type: "radio", name: "target", value: c, "aria-label": `class ${c}` });
    radio.checked = c === 0;
    radio.addEventListener("change", () => draw());
    const logit = slider(element(row, "td"), `logit${c}`, "", { min: -6, max: 6, step: 0.25, value }, () => draw());
    const [p, grad] = ["softmax", "gradient"].map((name) => {
      const cell = element(row, "td", { class: "explore-bar" });
      return { bar: element(cell, "i"), number: element(cell, "span", { class: name }) };
    });
    return { radio, logit, p, grad };
  });
  const result = element(root, "p", { class: "explore-result" }, "loss ");
  const loss = element(result, "b", { class: "loss" });
  const call = element(element(root, "pre", { class: "explore-call" }), "code");

  function draw() {
    const logits = rows.map((row) => row.logit.value);
    const target = rows.findIndex((row) => row.radio.checked);
    const found = rowLoss(logits, target, read());
    show(loss, found.loss);
    rows.forEach((row, c) => {
      show(row.p.number, found.p[c]);
      row.p.bar.style.width = `${50 * found.p[c]}%`;
      show(row.grad.number, found.grad[c]);
      row.grad.bar.style.width = `${Math.min(50, 25 * Math.abs(found.grad[c]))}%`;
      row.grad.bar.className = found.grad[c] < 0 ? "down" : "up";
    });
    call.textContent = pythonCall(logits, target, read());
  }
  draw();
}

/* Ten classes of which nine have logit 0: loss and gradient over the logit of the tenth, the target. */
function exploreCurve(root) {
  const [left, right, low, high, width, height] = [-6, 10, -2, 6, 420, 260];
  const x = (value) => 34 + ((value - left) / (right - left)) * (width - 44);
  const y = (value) => 10 + ((high - value) / (high - low)) * (height - 40);
  const controls = element(root, "div", { class: "explore-controls" });
  const read = options(controls, () => draw());
  const at = slider(controls, "logit", "target’s logit", { min: left, max: right, step: 0.25, value: 1 }, () => draw());

  const svg = element(root, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "explore-plot" });
  element(svg, "title", {}, "Loss and gradient of the target’s logit, over this logit");
  for (let value = left; value <= right; value += 2) {
    element(svg, "line", { class: "grid", x1: x(value), x2: x(value), y1: y(high), y2: y(low) });
    element(svg, "text", { x: x(value), y: height - 6, "text-anchor": "middle" }, String(value).replace("-", "−"));
  }
  for (let value = low; value <= high; value += 1) {
    element(svg, "line", { class: value ? "grid" : "zero", x1: x(left), x2: x(right), y1: y(value), y2: y(value) });
    element(svg, "text", { x: 28, y: y(value) + 4, "text-anchor": "end" }, String(value).replace("-", "−"));
  }
  const inside = element(element(svg, "clipPath", { id: "explore-inside" }), "rect", { x: x(left), y: y(high) });
  inside.setAttribute("width", x(right) - x(left));
  inside.setAttribute("height", y(low) - y(high));
  const drawing = element(svg, "g", { "clip-path": "url(#explore-inside)" });
  const plain = { loss: element(drawing, "path", { class: "plain" }), grad: element(drawing, "path", { class: "plain" }) };
  const curves = { loss: element(drawing, "path", { class: "loss" }), grad: element(drawing, "path", { class: "grad" }) };
  const dots = { loss: element(drawing, "circle", { class: "loss", r: 4 }), grad: element(drawing, "circle", { class: "grad", r: 4 }) };

  const result = element(root, "p", { class: "explore-result" });
  const numbers = {};
  for (const [name, label] of [["loss", "loss "], ["grad", "gradient "]]) {
    element(result, "span", { class: `key ${name}` }, label);
    numbers[name] = element(result, "b", { class: name });
  }
  element(result, "span", { class: "key plain" }, "without options");
  const call = element(element(root, "pre", { class: "explore-call" }), "code");

  const logits = (value) => [value, 0, 0, 0, 0, 0, 0, 0, 0, 0];
  const of = (value, chosen) => {
    const { loss, grad } = rowLoss(logits(value), 0, chosen);
    return { loss, grad: grad[0] };
  };
  function path(name, chosen) {
    const points = [];
    for (let value = left; value <= right; value += 0.1) points.push(`${x(value).toFixed(2)} ${y(of(value, chosen)[name]).toFixed(2)}`);
    return `M${points.join("L")}`;
  }
  function draw() {
    const found = of(at.value, read());
    for (const name of ["loss", "grad"]) {
      plain[name].setAttribute("d", path(name, { T: 1, e: 0, gamma: 0 }));
      curves[name].setAttribute("d", path(name, read()));
      dots[name].setAttribute("cx", x(at.value));
      dots[name].setAttribute("cy", y(found[name]));
      show(numbers[name], found[name]);
    }
    call.textContent = pythonCall(logits(at.value), 0, read());
  }
  draw();
}

document.querySelectorAll(".explore-row-figure").forEach(exploreRow);
document.querySelectorAll(".explore-curve-figure").forEach(exploreCurve);
