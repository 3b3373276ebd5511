/** Passages of training addresses that a test or development address repeats word for word; written by scripts/quotations.mjs. */
import type { Passage } from "./overlap.ts";

/** Characters from which a repeated passage counts as a quotation. */
export const QUOTATION = 100;

/** Start and length (UTF-16 units) of each quotation, by the name of the training address. */
export const quotations: Readonly<Record<string, readonly Passage[]>> = {
  "1800_john_adams_f": [[6536, 114]],
  "1830_andrew_jackson_d": [[44543, 241]],
  "1840_martin_van_buren_d": [[3777, 110]],
  "1845_james_polk_d": [[48984, 413], [95412, 340]],
  "1847_james_polk_d": [[57284, 109]],
  "1853_franklin_pierce_d": [[21292, 112]],
  "1855_franklin_pierce_d": [[29303, 123], [29435, 122], [32272, 143]],
  "1857_james_buchanan_d": [[29609, 113], [42722, 121]],
  "1858_james_buchanan_d": [[42403, 113], [76288, 213]],
  "1860_james_buchanan_d": [[41163, 156]],
  "1891_benjamin_harrison_r": [[8085, 289], [8375, 227], [8680, 217]],
  "1896_grover_cleveland_d": [[92427, 738], [93174, 149], [93371, 535]],
  "1898_william_mc_kinley_r": [[63464, 473], [63941, 152], [64095, 133], [109088, 112]],
  "1900_william_mc_kinley_r": [[39875, 150], [50058, 103], [57782, 104], [65315, 222], [65538, 156], [66214, 148], [66363, 124], [66603, 434], [100868, 215]],
  "1905_theodore_roosevelt_r": [[31383, 115], [50380, 921]],
  "1920_woodrow_wilson_d": [[10660, 106], [13165, 137]],
  "1946_harry_s_truman_d": [[4276, 117], [4394, 105]],
  "2007_george_w_bush_r": [[647, 104]],
  "2019_donald_j_trump_r": [[5, 113]],
  "2020_donald_j_trump_r": [[5, 102]],
};
