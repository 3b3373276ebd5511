/**
 * Contract kernels: batched matmul of any strides with the stores as epilogue.
 *
 * A kernel is a driver around the library of gemm.ts. Work is cut in units (batch, part of m, part of n); threads draw units from
 * a counter, and a unit walks blocks of columns, packs B for a block of k, and multiplies. A single store of plain `acc` to f32 rows is written by the
 * micro-kernel itself; any other epilogue is a sweep (map.ts) over each finished block, read from a scratch block while it
 * is hot. Fewer than four rows skip the packing (dot products or scaled rows); fewer than four columns are the same after
 * exchanging the roles of the operands, as are results whose columns are contiguous instead of rows. Which path runs depends on shapes and strides only.
 * A quantized operand counts in elements until its packer (decode.ts) turns codes into f32; it takes the path that its numbers in f32 would take.
 */
import { bytesOf, type ContractKernel, DTypeError, type Factor, keyOf, type View } from "@adjoint/tensor";
import { Func, type Local, op } from "./assembler.ts";
import { Dag } from "./dag.ts";
import { decodeWords, fillDecode, TILE, vectorTile } from "./decode.ts";
import { Frame } from "./frame.ts";
import { libraryIndex } from "./gemm.ts";
import { KC, type Order, PACKED_A } from "./order.ts";
import type { Root } from "./line.ts";
import { emitSweep, operandsOf } from "./map.ts";
import { type Recipe, type Target, WORKSPACE } from "./recipe.ts";
import { collapse, Layout, type Patch, product, type Signature, type Space, signatureKey } from "./space.ts";

const MC = 256, NC = 1024;
const align = (n: number, to: number): number => Math.ceil(n / to) * to;

/** One operand over [batch..., rows or columns] and k, in elements. */
interface Matrix { readonly view: Factor; readonly across: number; readonly along: number; readonly batch: readonly number[] }
interface Problem {
  readonly m: number; readonly n: number; readonly k: number;
  readonly batch: readonly number[];
  readonly a: Matrix; readonly b: Matrix;
  /** [batch..., m, n] of stores, loads and affines */
  readonly space: Space;
}

/** Merges batch axes into m where b does not follow them; exchanges the operands for few columns or a transposed result. */
function arrange(k: ContractKernel, views: readonly View[]): Problem {
  const rank = k.shape.length, nb = rank - 2;
  const lists = [...views.map((w) => w.strides), ...k.affines.map((x) => x.strides)];
  const m = k.shape[rank - 2], n = k.shape[rank - 1], out = k.stores[0].view.strides;
  const swap = n < 4 ? n < m : m >= 4 && out[rank - 1] !== 1 && out[rank - 2] === 1;
  const turn = (l: readonly number[]): number[] => (swap ? [...l.slice(0, nb), l[rank - 1], l[rank - 2]] : [...l]);
  const shape = turn(k.shape);
  const rowsOf: Factor = swap ? k.b : k.a, colsOf: Factor = swap ? k.a : k.b;
  // a is [batch, m, k] and b [batch, k, n]
  const across = (w: View): number => (w === k.a ? w.strides[nb] : w.strides[nb + 1]);
  const along = (w: View): number => (w === k.a ? w.strides[nb + 1] : w.strides[nb]);
  const outerLists = [
    [...rowsOf.strides.slice(0, nb), across(rowsOf)],
    [...colsOf.strides.slice(0, nb), 0],
    ...lists.map((l) => turn(l).slice(0, nb + 1)),
  ];
  const c = collapse(shape.slice(0, nb + 1), [nb + 1], outerLists);
  const last = c.shape.length - 1;
  // the last axis left is m unless b follows it
  if (last < 0 || c.strides[1][last] !== 0) { c.shape.push(1); c.strides.forEach((l) => l.push(0)); }
  const batch = c.shape.slice(0, -1), columns = shape[rank - 1];
  return {
    m: c.shape[c.shape.length - 1], n: columns, k: k.k, batch,
    a: { view: rowsOf, across: c.strides[0][batch.length], along: along(rowsOf), batch: c.strides[0].slice(0, -1) },
    b: { view: colsOf, across: across(colsOf), along: along(colsOf), batch: c.strides[1].slice(0, -1) },
    space: { shape: [...c.shape, columns], groups: [c.shape.length, 1], strides: lists.map((l, i) => [...c.strides[2 + i], turn(l)[rank - 1]]) },
  };
}

const orderOf = (x: Matrix, k: number): Order => (x.along === 1 || k === 1 ? "along" : x.across === 1 ? "across" : "any");

/** How a unit of work runs. */
type Path = "dots" | "axpy" | "blocks";

export function contractRecipe(kernel: ContractKernel, target: Target): Recipe {
  const views: View[] = [...kernel.loads, ...kernel.stores.map((s) => s.view)];
  for (const w of [kernel.a, kernel.b]) if (!w.decode && !["f32", "f16", "bf16"].includes(w.dtype)) {
    throw new DTypeError(`contract ${kernel.label}: operands must be f32, f16 or bf16`, { op: kernel.label, value: w.dtype, fix: "cast the operand to f32" });
  }
  const p = arrange(kernel, views), { m, n, k, batch, a, b } = p, { mr, nr } = target.tile;
  const aOrder = orderOf(a, k), bOrder: Order = b.across === 1 ? "across" : b.along === 1 ? "along" : "any";
  const aRows = (a.view.decode !== undefined || a.view.dtype === "f32") && aOrder === "along", few = m < 4 && aRows && bOrder !== "any", inPlace = aRows && (few || !a.view.decode);
  const path: Path = few ? (bOrder === "along" ? "dots" : "axpy") : "blocks";
  const store = kernel.stores[0], rank = p.space.shape.length;
  const direct = kernel.stores.length === 1 && store.value.fn === "acc" && store.view.dtype === "f32" && store.view.at === undefined
    && (p.space.strides[kernel.loads.length][rank - 1] === 1 || n === 1) && store.view.buffer !== a.view.buffer && store.view.buffer !== b.view.buffer;

  // units: the batch, and parts of m or n where the batch does not feed all threads
  const batches = product(batch), t = target.threads;
  let pm = 1, pn = 1;
  if (t > 1 && batches < 4 * t) {
    // three units a thread where they are large, so that a thread that is held up delays the others little
    const parts = Math.ceil((2 * m * n * k * batches > 1.5e7 * t ? 3 * t : t) / batches);
    const rows = Math.min(parts, Math.floor(m / 32)), columns = Math.min(parts, Math.floor(n / 32));
    if (columns > 1 && columns >= rows && (rows < 2 || n >= m || b.view.decode)) pn = columns;
    else if (rows > 1) pm = rows;
    else if (columns > 1) pn = columns;
  }
  const mPart = align(Math.ceil(m / pm), mr), nPart = align(Math.ceil(n / pn), 16);
  const nBlock = Math.min(path === "blocks" ? (direct ? NC : 512) : nPart, nPart);
  const mBlock = direct ? mPart : Math.min(mPart, k <= KC ? 64 : MC);
  const mStep = Math.min(MC, mBlock);
  const packB = path === "blocks" ? align(nBlock, nr) * Math.min(k, KC) * 4 : 0;
  const packA = inPlace ? 0 : (align(mStep, 4) + 4) * PACKED_A;
  const scratch = direct ? 0 : align(path === "blocks" ? mBlock : m, 1) * nBlock * 4;
  const spare = mr * nr * 4;
  const tile = path !== "blocks" ? (b.view.decode ? vectorTile(path, k) : 0) : a.view.decode ?? b.view.decode ? TILE : 0;
  // where each part of a thread's workspace begins; packed B comes first
  let perThread = align(packB, 64);
  const part = (bytes: number): number => { const at = perThread; perThread += align(bytes, 64); return at; };
  const workspace = { packA: part(packA), scratch: part(scratch), spare: part(spare), tile: part(tile), rows: part(inPlace && a.view.decode ? 4 * m * (k + 4) : 0) };

  const nb = batch.length;
  const numbers: Record<string, number> = {
    m, n, k, batches, pm, pn, mPart, nPart, nBlock, mBlock, mStep, perThread, ...workspace,
    am: a.across * unit(a.view), ak: a.along * unit(a.view), bn: b.across * unit(b.view), bk: b.along * unit(b.view), ad: inPlace && a.view.decode ? 4 * (k + 4) : a.across * unit(a.view),
    aAt: (a.view.at?.stride ?? 0) * bytesOf(a.view.dtype), bAt: (b.view.at?.stride ?? 0) * bytesOf(b.view.dtype),
  };
  for (let i = 0; i < nb; i++) {
    numbers[`ab${i}`] = a.batch[i] * unit(a.view);
    numbers[`bb${i}`] = b.batch[i] * unit(b.view);
  }
  const signature: Signature = {
    rank, views: operandsOf(views, p.space.strides, kernel.label), uniforms: kernel.uniforms.length, extras: ["a", "b", "work", "next", ...Object.keys(numbers), ...(a.view.decode ? decodeWords("a") : []), ...(b.view.decode ? decodeWords("b") : [])],
    affines: kernel.affines.map((_, i) => (p.space.strides[views.length + i][rank - 1] === 0 ? 0 : 2)),
  };
  const layout = new Layout(signature);
  const code: Code = { shared: t > 1, kernel, signature, layout, nb, path, direct, inPlace, aOrder, bOrder, aType: a.view, bType: b.view };
  return {
    key: `contract|${path}${direct ? "D" : ""}|${typeOf(a.view)}${inPlace ? "" : aOrder}${a.view.at?.uniform ?? ""}|${typeOf(b.view)}${bOrder}${b.view.at?.uniform ?? ""}|${signatureKey(signature)}|${kernel.loads.length}|${keyOf(kernel.stores.map((s) => s.value))}`,
    layout, phases: 1, counter: layout.extra("next"), workspace: perThread * t, work: 2 * m * n * k * batches,
    fill: (words) => {
      const patches: Patch[] = layout.fill(words, p.space, views, kernel.affines, kernel.uniforms, numbers);
      for (const [x, { view }] of [["a", a], ["b", b]] as const) {
        if (view.decode) { words[layout.extra(x)] = view.offset; patches.push(...fillDecode(words, layout, x, view, view.decode)); }
        else patches.push({ word: layout.extra(x), buffer: view.buffer, bytes: view.offset * bytesOf(view.dtype) });
      }
      patches.push({ word: layout.extra("work"), buffer: WORKSPACE, bytes: 0 });
      return patches;
    },
    emit: (name, first) => emit(code, name, first),
  };
}

interface Code {
  /** threads draw units from a counter; else they are walked in order */
  readonly shared: boolean;
  readonly kernel: ContractKernel; readonly signature: Signature; readonly layout: Layout; readonly nb: number;
  readonly path: Path; readonly direct: boolean; readonly inPlace: boolean; readonly aOrder: Order; readonly bOrder: Order;
  readonly aType: Factor; readonly bType: Factor;
}
/** What pointers to an operand count: bytes, or elements of codes. */
const unit = (x: Factor): number => (x.decode ? 1 : bytesOf(x.dtype));
/** An operand's type in names of library functions. */
const typeOf = (x: Factor): string => (x.decode ? `q${x.decode.bits}` : x.dtype);

/** (args, r0, r1, c0, c1, acc, bytes between rows of acc): the stores over a finished block. */
function epilogue(code: Code, name: string): Func {
  const { kernel } = code, dag = new Dag();
  const roots: Root[] = kernel.stores.map((s, i) => ({ node: dag.add(s.value), sink: { kind: "store", view: kernel.loads.length + i } }));
  const frame = new Frame(`${name}.epilogue`, 7, code.signature, dag, false), f = frame.f;
  // a sweep reads acc at pointer + 4·column: move the pointer back by c0
  f.get(5).get(3).const(2).i(op.shl).i(op.sub).set(5);
  emitSweep(frame, 1, 2, 3, 4, roots, { pointer: 5, step: 6 });
  return f;
}

function emit(code: Code, name: string, first: number): Func[] {
  const { layout, nb, path, direct, inPlace } = code;
  const f = new Func(`${name}.0`, 3), args = 0, tid = 1;
  const tail = direct ? undefined : epilogue(code, name);
  const word = (i: number): Func => f.get(args).load(4 * i);
  const held = new Map<string, Local>();
  const num = (x: string): Local => {
    let l = held.get(x);
    if (l === undefined) { l = f.i32(); held.set(x, l); }
    return l;
  };
  const names = ["m", "n", "k", "pm", "pn", "mPart", "nPart", "nBlock", "mBlock", "mStep", "am", "ak", "ad", "bn", "bk"];
  for (const x of names) word(layout.extra(x)).set(num(x));
  const base = (x: "a" | "b", view: View): Local => {
    const l = f.i32();
    word(layout.extra(x));
    if (view.at !== undefined) { word(layout.uniformBase); word(layout.uniform(view.at.uniform)).i(op.add).load(); word(layout.extra(`${x}At`)).i(op.mul).i(op.add); }
    f.set(l);
    return l;
  };
  const aBase = base("a", code.aType), bBase = base("b", code.bType);
  const work = f.i32(), packA = f.i32(), scratch = f.i32(), spare = f.i32(), tile = f.i32(), rowsOfA = f.i32();
  /** what packers of codes are told beyond the others */
  const decoder = (x: "a" | "b"): Func => f.get(args).const(4 * layout.extra(`${x}.codes`)).i(op.add);
  word(layout.extra("work"));
  word(layout.extra("perThread")).get(tid).i(op.mul).i(op.add).set(work);
  for (const [l, x] of [[packA, "packA"], [scratch, "scratch"], [spare, "spare"], [tile, "tile"], [rowsOfA, "rows"]] as const) { word(layout.extra(x)).get(work).i(op.add).set(l); }
  const u = f.i32(), units = f.i32(), bi = f.i32(), part = f.i32(), rest = f.i32(), idx = f.i32();
  const ap = f.i32(), bp = f.i32(), cp = f.i32(), ldc = f.i32(), m0 = f.i32(), m1 = f.i32(), n0 = f.i32(), n1 = f.i32();
  const jc = f.i32(), nc = f.i32(), ms = f.i32(), msEnd = f.i32(), pc = f.i32(), kc = f.i32(), ic = f.i32(), mc = f.i32(), al = f.i32(), ald = f.i32(), c = f.i32(), row = f.i32(), r1 = f.i32(), c1 = f.i32();
  word(layout.extra("batches")).get(num("pm")).i(op.mul).get(num("pn")).i(op.mul).set(units);
  const next = (): void => { f.get(args).const(1).atomicAdd(4 * layout.extra("next")).set(u); };
  if (code.shared) next();
  const storeView = code.kernel.loads.length;

  const range = (from: Local, to: Local, index: Local, size: Local, total: Local): void => {
    f.get(index).get(size).i(op.mul).set(from).min(from, total).set(from);
    f.get(from).get(size).i(op.add).set(to).min(to, total).set(to);
  };
  f.while(() => f.get(u).get(units).i(op.ltU), () => {
    f.get(u).get(num("pm")).get(num("pn")).i(op.mul).i(op.divU).set(bi);
    f.get(u).get(num("pn")).i(op.remU).set(part);
    range(n0, n1, part, num("nPart"), num("n"));
    f.get(u).get(num("pn")).i(op.divU).get(num("pm")).i(op.remU).set(part);
    range(m0, m1, part, num("mPart"), num("m"));
    // pointers of this batch
    f.get(aBase).set(ap).get(bBase).set(bp).get(bi).set(rest);
    if (direct) { word(layout.view(storeView)).set(cp); word(layout.view(storeView) + 2 + nb).set(ldc); }
    else f.get(num("nBlock")).const(2).i(op.shl).set(ldc);
    for (let x = nb - 1; x >= 0; x--) {
      f.get(rest); word(layout.size(x)).i(op.remU).set(idx);
      f.get(rest); word(layout.size(x)).i(op.divU).set(rest);
      f.get(ap).get(idx); word(layout.extra(`ab${x}`)).i(op.mul).i(op.add).set(ap);
      f.get(bp).get(idx); word(layout.extra(`bb${x}`)).i(op.mul).i(op.add).set(bp);
      if (direct) { f.get(cp).get(idx); word(layout.view(storeView) + 2 + x).i(op.mul).i(op.add).set(cp); }
    }
    const finish = (rows: () => void, count: () => void, columns: Local, width: Local): void => {
      if (tail === undefined) return;
      // row numbers count over [batch..., m]
      f.get(bi).get(num("m")).i(op.mul); rows(); f.i(op.add).set(row);
      f.get(row); count(); f.i(op.add).set(r1);
      f.get(columns).get(width).i(op.add).set(c1);
      f.get(args).get(row).get(r1).get(columns).get(c1).get(c).get(ldc).call(first + 1);
    };
    if (inPlace && code.aType.decode) {                   // few rows: decoded once for all columns
      f.get(rowsOfA).get(ap).get(num("m")).get(num("k")).get(num("am")).get(num("ad"));
      decoder("a").call(libraryIndex(`decodeRows.${typeOf(code.aType)}`));
      f.get(rowsOfA).set(ap);
    }
    if (path === "blocks") blocks(finish);
    else rowsOneByOne(finish);
    if (code.shared) next(); else f.add(u, 1);
  });

  function rowsOneByOne(finish: (rows: () => void, count: () => void, columns: Local, width: Local) => void): void {
    f.get(n0).get(n1).i(op.ltU).if(() => {
      f.get(n1).get(n0).i(op.sub).set(nc);
      if (code.bType.decode) {
        f.get(ap).get(m0).get(num("ad")).i(op.mul).i(op.add).get(num("ad")).get(m1).get(m0).i(op.sub).get(bp).get(n0).get(num("bn")).i(op.mul).i(op.add);
        if (direct) f.get(cp).get(m0).get(ldc).i(op.mul).i(op.add).get(n0).const(2).i(op.shl).i(op.add);
        else f.get(scratch).get(m0).get(ldc).i(op.mul).i(op.add);
        f.get(ldc).get(nc).get(num("k")).get(num(path === "dots" ? "bn" : "bk"));
        decoder("b").get(tile).call(libraryIndex(`${path}.${typeOf(code.bType)}`));
      } else f.get(m0).set(ic).for(ic, undefined, m1, 1, () => {
        f.get(ap).get(ic).get(num("ad")).i(op.mul).i(op.add);
        f.get(bp).get(n0).get(num("bn")).i(op.mul).i(op.add);
        if (direct) f.get(cp).get(ic).get(ldc).i(op.mul).i(op.add).get(n0).const(2).i(op.shl).i(op.add);
        else f.get(scratch).get(ic).get(ldc).i(op.mul).i(op.add);
        f.get(nc).get(num("k")).get(num(path === "dots" ? "bn" : "bk")).call(libraryIndex(`${path}.${code.bType.dtype}`));
      });
      f.get(scratch).get(m0).get(ldc).i(op.mul).i(op.add).set(c);
      finish(() => f.get(m0), () => f.get(m1).get(m0).i(op.sub), n0, nc);
    });
  }

  function blocks(finish: (rows: () => void, count: () => void, columns: Local, width: Local) => void): void {
    f.get(n0).set(jc);
    f.for(jc, undefined, n1, 0, () => {
      f.get(n1).get(jc).i(op.sub).set(nc).min(nc, num("nBlock")).set(nc);
      f.get(m0).set(ms);
      f.for(ms, undefined, m1, 0, () => {
        f.get(ms).get(num("mBlock")).i(op.add).set(msEnd).min(msEnd, m1).set(msEnd);
        f.const(0).set(pc);
        f.for(pc, undefined, num("k"), KC, () => {
          f.get(num("k")).get(pc).i(op.sub).set(kc).const(KC).set(idx).min(kc, idx).set(kc);
          // a single block of k stays packed for all rows
          f.get(ms).get(m0).i(op.eq).get(num("k")).const(KC).i(op.gtU).i(op.or).if(() => {
            f.get(work).get(bp).get(pc).get(num("bk")).i(op.mul).i(op.add).get(jc).get(num("bn")).i(op.mul).i(op.add);
            f.get(kc).get(nc).get(num("bk")).get(num("bn"));
            if (code.bType.decode) decoder("b").get(tile);
            f.call(libraryIndex(`packB.${typeOf(code.bType)}.${code.bOrder}`));
          });
          f.get(ms).set(ic);
          f.for(ic, undefined, msEnd, 0, () => {
            f.get(msEnd).get(ic).i(op.sub).set(mc).min(mc, num("mStep")).set(mc);
            f.get(ap).get(ic).get(num("am")).i(op.mul).i(op.add).get(pc).get(num("ak")).i(op.mul).i(op.add).set(al);
            if (inPlace) f.get(num("am")).set(ald);
            else {
              f.get(packA).get(al).get(mc).get(kc).get(num("am")).get(num("ak"));
              if (code.aType.decode) decoder("a").get(tile);
              f.call(libraryIndex(`packA.${typeOf(code.aType)}.${code.aOrder}`));
              f.get(packA).set(al).const(PACKED_A).set(ald);
            }
            if (direct) f.get(cp).get(ic).get(ldc).i(op.mul).i(op.add).get(jc).const(2).i(op.shl).i(op.add).set(c);
            else f.get(scratch).get(ic).get(ms).i(op.sub).get(ldc).i(op.mul).i(op.add).set(c);
            const run = (fn: string): void => { f.get(al).get(ald).get(work).get(c).get(ldc).get(mc).get(nc).get(kc).get(pc).get(spare).call(libraryIndex(fn)); };
            f.get(kc).const(64).i(op.leU).if(() => run("microRows"), () => run("micro"));
            if (tail !== undefined) f.get(pc).get(kc).i(op.add).get(num("k")).i(op.geU).if(() => finish(() => f.get(ic), () => f.get(mc), jc, nc));
            f.addTo(ic, mc);
          });
        });
        f.get(msEnd).set(ms);
      });
      f.addTo(jc, nc);
    });
  }
  return tail === undefined ? [f] : [f, tail];
}
