/** Small multiples of paths over contours, by Vega, as the text of an SVG file. Called by main.ts. */
import { View, parse } from "vega";

const W = 288, H = 228, GAP_X = 46, GAP_Y = 78, COLUMNS = 3, GRID = 6;
const COLORS = ["#1b6ca8", "#d1495b", "#2a9d5c", "#e08e0b", "#7b4fa3"];
const INK = "#22272e", SOFT = "#6b7280", FONT = "Helvetica, Arial, sans-serif";

/** Heights on a grid of a point every GRID pixels, the first row on top. */
function heights({ x, y, level }) {
  const width = W / GRID + 1, height = H / GRID + 1;
  const values = [];
  for (let j = 0; j < height; j++) for (let i = 0; i < width; i++) values.push(level(x[0] + ((x[1] - x[0]) * i * GRID) / W, y[1] - ((y[1] - y[0]) * j * GRID) / H));
  return { width: Math.floor(width), height: Math.floor(height), values };
}

function panel({ title, paths }, i, { surface }) {
  const rows = paths.flatMap(({ points }, k) => points.map(([x, y], t) => ({ x, y, t, k })));
  const ends = paths.map(({ points }, k) => ({ x: points[points.length - 1][0], y: points[points.length - 1][1], k }));
  const place = { x: { scale: "x", field: "x" }, y: { scale: "y", field: "y" } }, axis = { tickCount: 4, tickSize: 3, labelFontSize: 9, labelColor: SOFT, labelFont: FONT, domainColor: "#c4c9d1", tickColor: "#c4c9d1" };
  return {
    type: "group",
    encode: { enter: { x: { value: (i % COLUMNS) * (W + GAP_X) }, y: { value: Math.floor(i / COLUMNS) * (H + GAP_Y) }, width: { value: W }, height: { value: H } } },
    data: [{ name: "points", values: rows }, { name: "ends", values: ends }],
    scales: [{ name: "x", domain: surface.x, range: [0, W], zero: false }, { name: "y", domain: surface.y, range: [H, 0], zero: false }, { name: "color", type: "ordinal", domain: paths.map((_, k) => k), range: COLORS }],
    axes: [{ orient: "bottom", scale: "x", ...axis }, { orient: "left", scale: "y", ...axis }],
    marks: [
      {
        type: "group", clip: true, encode: { enter: { width: { value: W }, height: { value: H } } },
        marks: [
          { type: "path", from: { data: "contours" }, transform: [{ type: "geopath", field: "datum.contour" }], encode: { enter: { fill: { value: "#8fa3bf" }, fillOpacity: { value: 0.09 }, stroke: { value: "#8fa3bf" }, strokeOpacity: { value: 0.55 }, strokeWidth: { value: 0.6 } } } },
          {
            type: "group", from: { facet: { name: "path", data: "points", groupby: "k" } },
            marks: [{ type: "line", from: { data: "path" }, encode: { enter: { ...place, stroke: { scale: "color", field: "k" }, strokeWidth: { signal: "[3.6, 2.6, 1.7, 1][datum.k]" }, strokeOpacity: { value: 0.95 }, strokeJoin: { value: "round" } } } }],
          },
          { type: "symbol", from: { data: "ends" }, encode: { enter: { ...place, fill: { scale: "color", field: "k" }, stroke: { value: "white" }, strokeWidth: { value: 1 }, size: { value: 42 } } } },
          { type: "symbol", encode: { enter: { x: { scale: "x", value: surface.start[0] }, y: { scale: "y", value: surface.start[1] }, shape: { value: "circle" }, fill: { value: "white" }, stroke: { value: INK }, strokeWidth: { value: 1.2 }, size: { value: 34 } } } },
          { type: "symbol", encode: { enter: { x: { scale: "x", value: surface.minimum[0] }, y: { scale: "y", value: surface.minimum[1] }, shape: { value: "cross" }, angle: { value: 45 }, fill: { value: INK }, size: { value: 46 } } } },
        ],
      },
      { type: "text", encode: { enter: { x: { value: 0 }, y: { value: -28 }, text: { value: title }, font: { value: FONT }, fontSize: { value: 12 }, fontWeight: { value: "bold" }, fill: { value: INK } } } },
      ...legend(paths),
    ],
  };
}

/** One line under the title: a dash and a name each, cut into equal parts. */
function legend(paths) {
  const widths = paths.map(({ label }) => 28 + label.length * 5.3);
  return paths.flatMap(({ label }, k) => {
    const x = widths.slice(0, k).reduce((a, b) => a + b, 0);
    return [
      { type: "rule", encode: { enter: { x: { value: x }, x2: { value: x + 11 }, y: { value: -13 }, stroke: { value: COLORS[k] }, strokeWidth: { value: 2.4 } } } },
      { type: "text", encode: { enter: { x: { value: x + 14 }, y: { value: -10 }, text: { value: label }, font: { value: FONT }, fontSize: { value: 10 }, fill: { value: INK } } } },
    ];
  });
}

/** The text of an SVG file. */
export async function draw({ surface, panels, heading, note }) {
  const grid = heights(surface), rows = Math.ceil(panels.length / COLUMNS), width = COLUMNS * W + (COLUMNS - 1) * GAP_X, height = rows * H + (rows - 1) * GAP_Y;
  const spec = {
    $schema: "https://vega.github.io/schema/vega/v6.json", background: "white", width: width + 52, height: height + 124, autosize: "none", padding: 0,
    data: [{ name: "grid", values: [grid] }, { name: "contours", source: "grid", transform: [{ type: "isocontour", scale: GRID, smooth: true, thresholds: surface.thresholds }] }],
    marks: [{ type: "group", encode: { enter: { x: { value: 34 }, y: { value: 98 } } }, marks: [
      { type: "text", encode: { enter: { x: { value: 0 }, y: { value: -72 }, text: { value: heading }, font: { value: FONT }, fontSize: { value: 16 }, fontWeight: { value: "bold" }, fill: { value: INK } } } },
      { type: "text", encode: { enter: { x: { value: 0 }, y: { value: -54 }, text: { value: note }, font: { value: FONT }, fontSize: { value: 10.5 }, fill: { value: SOFT } } } },
      ...panels.map((p, i) => panel(p, i, { surface })),
    ] }],
  };
  const view = await new View(parse(spec), { renderer: "none" }).runAsync();
  const svg = await view.toSVG();
  view.finalize();
  return `${compact(svg)}\n`;
}

/** Numbers in tags keep one decimal; what is the same everywhere is said once: the font, and the contours, which later panels take from the first. */
export function compact(svg) {
  const tags = svg.replaceAll(/<[^>]*>/g, (tag) => tag
    .replaceAll(/-?\d+\.\d{2,}/g, (n) => String(Math.round(Number(n) * 10) / 10))
    .replaceAll(/ (?:aria-[a-z-]+|role|pointer-events|font-family|class|opacity)="[^"]*"/g, (attribute) => (/contour|mark-path/.test(attribute) ? attribute : "")));
  let first = true;
  const once = tags.replaceAll(/<g class="mark-path role-mark">.*?<\/g>/gs, (all) => {
    const text = first ? all.replace(/<g [^>]*>/, '<g id="contours">') : '<use href="#contours"/>';
    first = false;
    return text;
  });
  return once.replaceAll(/<path d="[^"]*"\/>/g, "").replaceAll(/ transform="translate\(0,0\)"/g, "").replace("<svg ", `<svg font-family="${FONT}" `);
}
