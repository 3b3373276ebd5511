/** `npm run benchmark -- codebooks`: draws docs/pictures/codebooks.svg, the values of the 4-bit formats over a normal density. */
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { formats, type FormatName } from "@adjoint/quant";

const { values: { out } } = parseArgs({ options: { out: { type: "string", default: "docs/pictures/codebooks.svg" } } });
const names: readonly FormatName[] = ["nf4", "fp4", "int4", "mxfp4"], width = 760, left = 70, right = 20, row = 46, top = 110;
const x = (v: number): number => left + ((v + 1) / 2) * (width - left - right), height = top + names.length * row + 34;
/** Density of a block's elements over its largest of 64, about 2.4 deviations. */
const density = Array.from({ length: 201 }, (_, i) => i / 100 - 1).map((v) => `${x(v).toFixed(1)},${(top - 14 - 86 * Math.exp(-((2.4 * v) ** 2) / 2)).toFixed(1)}`);
const lines = [
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" font-size="13">`,
  `<rect width="${width}" height="${height}" fill="#fff"/>`,
  `<polygon points="${x(-1)},${top - 14} ${density.join(" ")} ${x(1)},${top - 14}" fill="#dfe7f2" stroke="#7a93b8"/>`,
];
names.forEach((name, i) => {
  const y = top + i * row + 10, { table } = formats[name], largest = Math.max(...table), used = [...new Set(table)].filter((v) => Math.abs(v) <= largest).sort((a, b) => a - b);
  lines.push(`<text x="10" y="${y + 5}" fill="#222">${name}</text><line x1="${x(-1)}" y1="${y}" x2="${x(1)}" y2="${y}" stroke="#ccc"/>`);
  for (const v of used) lines.push(`<line x1="${x(v / largest).toFixed(1)}" y1="${y - 12}" x2="${x(v / largest).toFixed(1)}" y2="${y + 12}" stroke="#b3402a" stroke-width="2"/>`);
});
for (const v of [-1, -0.5, 0, 0.5, 1]) lines.push(`<text x="${x(v)}" y="${height - 10}" text-anchor="middle" fill="#555">${v}</text>`);
writeFileSync(out, `${lines.join("\n")}\n</svg>\n`);
console.log(`${out}: ${names.join(", ")}`);
