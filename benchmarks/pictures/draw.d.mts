/** Types of draw.mjs: paths over contours as the text of an SVG file. */
export interface Picture {
  readonly surface: {
    readonly x: readonly [number, number]; readonly y: readonly [number, number]; readonly start: readonly [number, number]; readonly minimum: readonly [number, number];
    /** height of a point, and the heights of the contours */
    readonly level: (x: number, y: number) => number; readonly thresholds: readonly number[];
  };
  readonly heading: string;
  readonly note: string;
  readonly panels: readonly { readonly title: string; readonly paths: readonly { readonly label: string; readonly points: readonly (readonly [number, number])[] }[] }[];
}
export function draw(picture: Picture): Promise<string>;
export function compact(svg: string): string;
