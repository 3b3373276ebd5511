/** Types of lines.mjs: small multiples of lines over a logarithmic axis. */
export interface Lines {
  readonly x: string;
  readonly panels: readonly { readonly title: string; readonly y: string; readonly lines: readonly { readonly label: string; readonly points: readonly (readonly [number, number])[] }[] }[];
}
export function drawLines(picture: Lines): Promise<string>;
