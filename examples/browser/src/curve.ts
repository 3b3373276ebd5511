/** The loss curve: each step as a faint line, its running mean in the accent colour; redrawn when light turns to dark. */
import uPlot from "uplot";

export interface Curve {
  add(step: number, loss: number): void;
  clear(steps: number): void;
}

export function curve(place: HTMLElement): Curve {
  let xs: number[] = [], ys: number[] = [], means: number[] = [], steps = 1, sum = 0, weight = 0, plot: uPlot | null = null;
  const colour = (name: string): string => getComputedStyle(place).getPropertyValue(name).trim();
  const height = 260;
  const font = "12px system-ui, sans-serif";
  const draw = (): void => {
    plot?.destroy();
    const axis = { stroke: colour("--soft"), font, grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    plot = new uPlot({
      width: place.clientWidth, height, padding: [8, 10, 0, 0], legend: { show: false }, cursor: { y: false, points: { show: false } },
      scales: { x: { time: false, range: () => [1, Math.max(2, steps)] }, y: { range: (_, low, high) => [Math.max(0, low - 0.15 * (high - low || 1)), high + 0.05 * (high - low || 1)] } },
      axes: [{ ...axis, grid: { show: false }, size: 30, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500] }, { ...axis, size: 44, values: (_, ticks) => ticks.map((t) => t.toFixed(1)) }],
      series: [{}, { stroke: colour("--faint"), width: 1, points: { show: false } }, { stroke: colour("--accent"), width: 2.5, points: { show: false } }],
    }, [xs, ys, means], place);
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(() => plot?.setSize({ width: place.clientWidth, height })).observe(place);
  return {
    clear(total) {
      [xs, ys, means, steps, sum, weight] = [[], [], [], total, 0, 0];
      draw();
    },
    add(step, loss) {
      [sum, weight] = [0.88 * sum + loss, 0.88 * weight + 1];
      xs.push(step);
      ys.push(loss);
      means.push(sum / weight);
      plot?.setData([xs, ys, means]);
    },
  };
}
