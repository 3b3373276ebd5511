/** Small pictures of a curve in text: columns of eighths of a character. */

const eighths = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/** Numbers in [0, 1] as one line. */
export const sparkline = (values: readonly number[]): string => values.map((v) => eighths[Math.max(v > 0 ? 1 : 0, Math.min(8, Math.round(v * 8)))]).join("");

/** Numbers in [0, 1] as so many lines with a scale on the left. A value above 0 shows. */
export function plot(values: readonly number[], height: number): string[] {
  const levels = values.map((v) => Math.max(v > 0 ? 1 : 0, Math.min(8 * height, Math.round(v * 8 * height))));
  return Array.from({ length: height }, (_, i) => {
    const row = height - 1 - i, label = i === 0 ? "1" : row === 0 ? "0" : " ";
    return `  ${label} │${levels.map((l) => eighths[Math.max(0, Math.min(8, l - 8 * row))]).join("")}`.trimEnd();
  });
}
