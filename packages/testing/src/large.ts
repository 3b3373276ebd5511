/** Subjects of odd and larger sizes: around vector widths, tiles, blocks of 256 terms and chunks of 64 rows. */
import fc from "fast-check";
import { add, amax, concat, crossEntropy, exp, gather, layerNorm, matmul, mean, permute, relu, reshape, scatterAdd, slice, softmax, sum, tanh, total } from "@adjoint/tensor";
import { largeAttentionSubjects } from "./attention.ts";
import { type Draw, bulk, orders } from "./arbitraries.ts";
import { type Sample, type Subject, sample } from "./subjects.ts";

/** Sizes where loops have tails: one, below and above widths of 4, 8, 16, 64, 256. */
const edges = fc.constantFrom(1, 3, 4, 5, 8, 13, 16, 17, 31, 33, 64, 65, 70);
const long = fc.constantFrom(1, 7, 64, 65, 128, 200, 255, 256, 257, 300, 513);

const subject = (name: string, samples: fc.Arbitrary<Sample>): Subject => ({ name: `large ${name}`, samples, smooth: false });
const product = (name: string, shape: fc.Arbitrary<readonly [number, number, number]>, operands: (m: number, k: number, n: number) => [Draw["shape"], Draw["shape"]], apply: Sample["apply"], dtype: Draw["dtype"] = "float"): Subject =>
  subject(name, shape.chain(([m, k, n]) => { const [a, b] = operands(m, k, n); return fc.tuple(bulk(a, { low: -3, high: 3, dtype: dtype === "float" ? dtype : "f32" }), bulk(b, { low: -3, high: 3, dtype })).map((xs) => sample(name, xs, apply)); }));
const boxes = fc.tuple(edges, long, edges).filter(([m, k, n]) => m * k * n <= 300_000);
const flat = fc.tuple(fc.constantFrom(1, 2, 16, 33), edges, long);
const slim = fc.shuffledSubarray([0, 1, 2], { minLength: 3 }).chain((order) => fc.tuple(fc.constantFrom(1, 2, 4, 8), fc.constantFrom(8, 16, 24, 64), fc.constantFrom(4, 32, 33, 64)).map((s): readonly [number, number, number] => [s[order[0]], s[order[1]], s[order[2]]]));
const tables = fc.tuple(edges, long).filter(([r, c]) => r * c <= 20_000);
const cubes = fc.tuple(fc.constantFrom(1, 2, 5), edges, edges).map((s): number[] => [...s]);
const axes = (rank: number): fc.Arbitrary<number[]> => fc.subarray(Array.from({ length: rank }, (_, i) => i), { minLength: 1 });

/** Sizes that small subjects never reach; values only, compared with the oracle. */
export const largeSubjects: readonly Subject[] = [
  product("a b", boxes, (m, k, n) => [[m, k], [k, n]], ([a, b]) => matmul(a, b)),
  product("a bᵀ", boxes, (m, k, n) => [[m, k], [n, k]], ([a, b]) => matmul(a, b.T)),
  product("aᵀ b", boxes, (m, k, n) => [[k, m], [k, n]], ([a, b]) => matmul(a.T, b)),
  product("aᵀ bᵀ", boxes, (m, k, n) => [[k, m], [n, k]], ([a, b]) => matmul(a.T, b.T)),
  product("wide a b", flat, (m, k, n) => [[m, k], [k, n]], ([a, b]) => matmul(a, b)),
  // the products of a low-rank adapter: a dimension of a few vectors beside ones of many
  product("slim a b", slim, (m, k, n) => [[m, k], [k, n]], ([a, b]) => matmul(a, b)),
  product("slim a bᵀ", slim, (m, k, n) => [[m, k], [n, k]], ([a, b]) => matmul(a, b.T)),
  product("slim aᵀ b", slim, (m, k, n) => [[k, m], [k, n]], ([a, b]) => matmul(a.T, b)),
  product("wide a bᵀ", flat, (m, k, n) => [[m, k], [n, k]], ([a, b]) => matmul(a, b.T)),
  product("a bᵀ in f16", boxes, (m, k, n) => [[m, k], [n, k]], ([a, b]) => matmul(a, b.T), "f16"),
  product("a b in bf16", boxes, (m, k, n) => [[m, k], [k, n]], ([a, b]) => matmul(a, b), "bf16"),
  product("batched a b", boxes.filter(([m, k, n]) => m * k * n < 60_000), (m, k, n) => [[3, 2, m, k], [2, k, n]], ([a, b]) => matmul(a, b)),
  product("heads q kᵀ", boxes.filter(([m, k, n]) => m * k * n < 60_000), (m, k, n) => [[2, m, 3, k], [2, n, 3, k]], ([a, b]) => matmul(a.permute([0, 2, 1, 3]), b.permute([0, 2, 3, 1]))),
  product("linear, tanh, residual", boxes, (m, k, n) => [[m, k], [n, k]], ([a, b]) => { const y = matmul(a.mul(0.125), b.T); return tanh(y.mul(0.125).add(sum(b, 1).mul(0.01).reshape([1, b.shape[0]]))).add(y); }),
  subject("linear with a low-rank sum", boxes.chain(([m, k, n]) => fc.tuple(bulk([m, k]), bulk([n, k]), bulk([4, k]), bulk([n, 4]))).map((xs) => sample("linear with a low-rank sum", xs, ([x, w, a, b]) => relu(matmul(x, w.T).add(matmul(matmul(x, a.T).mul(0.125), b.T)))))),
  subject("sum of batched products", fc.tuple(edges, edges, edges, edges).filter(([m, k, j, n]) => m * (k + j) * n < 60_000).chain(([m, k, j, n]) => fc.tuple(bulk([2, m, k]), bulk([k, n]), bulk([2, j, m]), bulk([2, n, j]))).map((xs) => sample("sum of batched products", xs, ([a, b, c, d]) => matmul(a, b.expand([2, ...b.shape])).add(matmul(c.transpose(), d.transpose()))))),
  subject("total", cubes.chain((s) => bulk(s)).map((x) => sample("total", [x], ([t]) => total(t)))),
  subject("sum", cubes.chain((s) => fc.tuple(bulk(s), axes(3))).map(([x, list]) => sample("sum", [x], ([t]) => sum(t, list), `axes [${list.join()}]`))),
  subject("sum of rows", tables.chain((s) => bulk([...s])).map((x) => sample("sum of rows", [x], ([t]) => sum(t.mul(t), 1)))),
  subject("sum of columns", tables.chain((s) => bulk([...s])).map((x) => sample("sum of columns", [x], ([t]) => sum(t.mul(t), 0)))),
  subject("mean of all", tables.chain((s) => bulk([...s])).map((x) => sample("mean of all", [x], ([t]) => mean(t)))),
  subject("amax", cubes.chain((s) => fc.tuple(bulk(s), axes(3))).map(([x, list]) => sample("amax", [x], ([t]) => amax(t, list), `axes [${list.join()}]`))),
  subject("softmax", tables.chain((s) => fc.tuple(bulk([...s]), fc.nat(1))).map(([x, axis]) => sample("softmax", [x], ([t]) => softmax(t, axis), `axis ${axis}`))),
  subject("layerNorm", tables.chain((s) => fc.tuple(bulk([...s]), bulk([s[1]]), bulk([s[1]]))).map((xs) => sample("layerNorm", xs, ([x, w, b]) => layerNorm(x, w, b, 0.1)))),
  subject("crossEntropy", tables.chain((s) => fc.tuple(bulk([...s]), bulk([s[0]], { low: -1, high: s[1] - 1, integer: true, dtype: "i32" }))).map((xs) => sample("crossEntropy", xs, ([x, y]) => crossEntropy(x, y)))),
  subject("permute", cubes.chain((s) => fc.tuple(bulk(s), orders(3))).map(([x, p]) => sample("permute", [x], ([t]) => exp(permute(t, p)).add(0), `[${p.join()}]`))),
  subject("add broadcast", cubes.chain((s) => fc.tuple(bulk(s), bulk([s[1], 1]), bulk([s[2]]))).map((xs) => sample("add", xs, ([a, b, c]) => add(add(a, b), c)))),
  subject("reshape", cubes.chain((s) => bulk(s)).map((x) => sample("reshape", [x], ([t]) => reshape(t.permute([2, 0, 1]), [-1]).mul(2)))),
  subject("concat of slices", tables.filter(([, c]) => c > 1).chain((s) => bulk([...s])).map((x) => sample("concat", [x], ([t]) => concat([slice(t, 1, 1), t, slice(t, 1, 0, 1)], 1)))),
  subject("gather", fc.tuple(edges, edges, long).chain(([rows, width, n]) => fc.tuple(bulk([rows, width]), bulk([n], { low: 0, high: rows - 1, integer: true, dtype: "i32" }))).map((xs) => sample("gather", xs, ([t, i]) => gather(t, i)))),
  subject("scatterAdd", fc.tuple(edges, edges, long).chain(([rows, width, n]) => fc.tuple(bulk([n, width]), bulk([n], { low: 0, high: rows - 1, integer: true, dtype: "i32" }), fc.constant(rows))).map(([x, i, rows]) => sample("scatterAdd", [x, i], ([t, at]) => scatterAdd(t, at, rows)))),
  ...largeAttentionSubjects,
];
