/** Small multiples of lines over a logarithmic axis, by Vega, as the text of an SVG file. */
import { View, parse } from "vega";
import { compact } from "./draw.mjs";

const W = 220, H = 170, GAP = 74, COLORS = ["#1b6ca8", "#2a9d5c", "#d1495b", "#e08e0b"], INK = "#22272e", SOFT = "#6b7280", FONT = "Helvetica, Arial, sans-serif";

function panel({ title, y, lines }, i, x) {
  const rows = lines.flatMap(({ points }, k) => points.map(([a, b]) => ({ a, b, k }))), at = { x: { scale: "x", field: "a" }, y: { scale: "y", field: "b" } };
  const axis = { tickSize: 3, labelFontSize: 9, labelColor: SOFT, labelFont: FONT, titleFont: FONT, titleFontSize: 9, titleFontWeight: "normal", titleColor: SOFT, domainColor: "#c4c9d1", tickColor: "#c4c9d1", gridColor: "#eceff3" };
  return {
    type: "group",
    signals: [{ name: "width", value: W }, { name: "height", value: H }],       // as long as the grid's lines are
    encode: { enter: { x: { value: i * (W + GAP) }, y: { value: 0 }, width: { value: W }, height: { value: H } } },
    data: [{ name: "points", values: rows }],
    scales: [{ name: "x", type: "log", base: 2, domain: { data: "points", field: "a" }, range: [0, W] }, { name: "y", domain: { data: "points", field: "b" }, range: [H, 0], zero: false, nice: true }, { name: "color", type: "ordinal", domain: lines.map((_, k) => k), range: COLORS }],
    axes: [{ orient: "bottom", scale: "x", title: x, values: [...new Set(rows.map((r) => r.a))], format: "d", ...axis }, { orient: "left", scale: "y", title: y, tickCount: 5, grid: true, ...axis }],
    marks: [
      { type: "group", from: { facet: { name: "line", data: "points", groupby: "k" } }, marks: [{ type: "line", from: { data: "line" }, encode: { enter: { ...at, stroke: { scale: "color", field: "k" }, strokeWidth: { value: 2 } } } }] },
      { type: "symbol", from: { data: "points" }, encode: { enter: { ...at, fill: { scale: "color", field: "k" }, size: { value: 26 } } } },
      { type: "text", encode: { enter: { x: { value: 0 }, y: { value: -24 }, text: { value: title }, font: { value: FONT }, fontSize: { value: 12 }, fontWeight: { value: "bold" }, fill: { value: INK } } } },
      ...lines.flatMap(({ label }, k) => [
        { type: "rule", encode: { enter: { x: { value: 52 * k }, x2: { value: 52 * k + 12 }, y: { value: -11 }, stroke: { value: COLORS[k] }, strokeWidth: { value: 2.4 } } } },
        { type: "text", encode: { enter: { x: { value: 52 * k + 15 }, y: { value: -8 }, text: { value: label }, font: { value: FONT }, fontSize: { value: 10 }, fill: { value: INK } } } },
      ]),
    ],
  };
}

/** The text of an SVG file. */
export async function drawLines({ x, panels }) {
  const spec = { $schema: "https://vega.github.io/schema/vega/v6.json", width: panels.length * (W + GAP) - GAP, height: H, padding: { left: 8, right: 12, top: 40, bottom: 8 }, background: "white", marks: panels.map((p, i) => panel(p, i, x)) };
  return compact(await new View(parse(spec), { renderer: "none" }).toSVG());
}
