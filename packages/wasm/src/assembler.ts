/** A small WebAssembly assembler: functions are byte buffers with named instructions, a module is a list of functions over one imported memory. */

export const I32 = 0x7f, F32 = 0x7d, V128 = 0x7b;
export type ValueType = typeof I32 | typeof F32 | typeof V128;
/** A local variable's index. */
export type Local = number;

/** One-byte instructions that take their operands from the stack. */
export const op = {
  unreachable: 0x00, ret: 0x0f, drop: 0x1a, select: 0x1b,
  eqz: 0x45, eq: 0x46, ne: 0x47, ltS: 0x48, ltU: 0x49, gtS: 0x4a, gtU: 0x4b, leS: 0x4c, leU: 0x4d, geS: 0x4e, geU: 0x4f,
  add: 0x6a, sub: 0x6b, mul: 0x6c, divS: 0x6d, divU: 0x6e, remU: 0x70, and: 0x71, or: 0x72, xor: 0x73, shl: 0x74, shrS: 0x75, shrU: 0x76,
  fadd: 0x92,
} as const;

/** SIMD instructions without immediates (prefix 0xfd). */
export const v = {
  swizzle: 14, splat8: 15, splat16: 16, splatI: 17, splatF: 19, splatD: 20,
  eqI: 55, neI: 56, ltS: 57, ltU: 58, gtS: 59, gtU: 60, leS: 61, leU: 62, geS: 63, geU: 64,
  eqF: 65, neF: 66, ltF: 67, gtF: 68, leF: 69, geF: 70, eqD: 71, neD: 72, ltD: 73,
  not: 77, and: 78, andnot: 79, or: 80, xor: 81, bitselect: 82, anyTrue: 83,
  demote: 94, promote: 95, narrow8S: 101, narrow8U: 102, floorF: 104, nearestD: 0x94,
  narrow16S: 0x85, narrow16U: 0x86, shr8U: 0x6d, ext8S: 0x87, ext8U: 0x89,
  absI: 0xa0, negI: 0xa1, ext16S: 0xa7, ext16U: 0xa9, shlI: 0xab, shrS: 0xac, shrU: 0xad, addI: 0xae, subI: 0xb1, mulI: 0xb5,
  minS: 0xb6, minU: 0xb7, maxS: 0xb8, maxU: 0xb9, shlL: 0xcb, shrUL: 0xcd, addL: 0xce, subL: 0xd1,
  absF: 0xe0, negF: 0xe1, sqrtF: 0xe3, addF: 0xe4, subF: 0xe5, mulF: 0xe6, divF: 0xe7, pminF: 0xea, pmaxF: 0xeb,
  absD: 0xec, negD: 0xed, addD: 0xf0, subD: 0xf1, mulD: 0xf2, divD: 0xf3, pminD: 0xf6, pmaxD: 0xf7,
  truncS: 0xf8, truncU: 0xf9, convertS: 0xfa, convertU: 0xfb, truncDS: 0xfc, convertDS: 0xfe,
  madd: 0x105,
} as const;
/** SIMD loads and stores with an offset. */
const mem = { load: 0, splat8: 7, splat16: 8, splat32: 9, splat64: 10, store: 11, zero32: 92, zero64: 93 } as const;

const floats = new Float32Array(4), doubles = new Float64Array(2), ints = new Int32Array(4);
const floatBytes = new Uint8Array(floats.buffer), doubleBytes = new Uint8Array(doubles.buffer), intBytes = new Uint8Array(ints.buffer);

/** A growing byte buffer with LEB128 numbers. */
export class Bytes {
  data: Uint8Array = new Uint8Array(1024);
  length = 0;
  byte(b: number): void {
    if (this.length === this.data.length) this.#grow(1);
    this.data[this.length++] = b;
  }
  unsigned(n: number): void {
    n >>>= 0;
    while (n > 127) { this.byte((n & 127) | 128); n >>>= 7; }
    this.byte(n);
  }
  signed(n: number): void {
    n |= 0;
    for (;;) {
      const b = n & 127;
      n >>= 7;
      if ((n === 0 && (b & 64) === 0) || (n === -1 && (b & 64) !== 0)) { this.byte(b); return; }
      this.byte(b | 128);
    }
  }
  append(bytes: Uint8Array): void {
    if (this.length + bytes.length > this.data.length) this.#grow(bytes.length);
    this.data.set(bytes, this.length);
    this.length += bytes.length;
  }
  text(s: string): void {
    this.unsigned(s.length);
    for (let i = 0; i < s.length; i++) this.byte(s.charCodeAt(i));
  }
  view(): Uint8Array { return this.data.subarray(0, this.length); }
  #grow(n: number): void {
    const next = new Uint8Array(Math.max(this.data.length * 2, this.length + n));
    next.set(this.data.subarray(0, this.length));
    this.data = next;
  }
}

/** One function without results; parameters are i32 and are its first locals. */
export class Func {
  readonly name: string;
  readonly params: number;
  readonly exported: boolean;
  readonly #prologue = new Bytes();
  readonly #code = new Bytes();
  readonly #locals: ValueType[] = [];
  /** locals of vector constants by their bytes */
  readonly #constants = new Map<string, Local>();
  constructor(name: string, params: number, exported = true) { this.name = name; this.params = params; this.exported = exported; }

  local(type: ValueType): Local { this.#locals.push(type); return this.params + this.#locals.length - 1; }
  i32(): Local { return this.local(I32); }
  v128(): Local { return this.local(V128); }
  get(i: Local): this { this.#code.byte(0x20); this.#code.unsigned(i); return this; }
  set(i: Local): this { this.#code.byte(0x21); this.#code.unsigned(i); return this; }
  tee(i: Local): this { this.#code.byte(0x22); this.#code.unsigned(i); return this; }
  i(code: number): this { this.#code.byte(code); return this; }
  const(n: number): this { this.#code.byte(0x41); this.#code.signed(n); return this; }
  load(offset = 0): this { return this.#memory(0x28, offset); }
  /** one byte, zero-extended */
  load8(offset = 0): this { return this.#memory(0x2d, offset); }
  store(offset = 0): this { return this.#memory(0x36, offset); }
  #memory(code: number, offset: number): this { this.#code.byte(code); this.#code.byte(0); this.#code.unsigned(offset); return this; }

  /** address, n -> the word's old value; adds n atomically */
  atomicAdd(offset = 0): this { this.#code.byte(0xfe); this.#code.byte(0x1e); this.#code.byte(2); this.#code.unsigned(offset); return this; }

  simd(code: number): this { this.#code.byte(0xfd); this.#code.unsigned(code); return this; }
  #vmem(code: number, offset: number): this { this.simd(code); this.#code.byte(0); this.#code.unsigned(offset); return this; }
  vload(offset = 0): this { return this.#vmem(mem.load, offset); }
  vstore(offset = 0): this { return this.#vmem(mem.store, offset); }
  /** loads `bits` bits and repeats them in every lane */
  vsplat(bits: 8 | 16 | 32 | 64, offset = 0): this { return this.#vmem(bits === 8 ? mem.splat8 : bits === 16 ? mem.splat16 : bits === 32 ? mem.splat32 : mem.splat64, offset); }
  /** loads `bits` bits into the lowest lane and clears the rest */
  vzeroload(bits: 32 | 64, offset = 0): this { return this.#vmem(bits === 32 ? mem.zero32 : mem.zero64, offset); }
  /** address, vector -> vector with one lane replaced from memory */
  loadLane(bits: 8 | 16 | 32, lane: number, offset = 0): this { this.#vmem(bits === 8 ? 84 : bits === 16 ? 85 : 86, offset); this.#code.byte(lane); return this; }
  storeLane(bits: 8 | 16 | 32 | 64, lane: number, offset = 0): this { this.#vmem(bits === 8 ? 88 : bits === 16 ? 89 : bits === 32 ? 90 : 91, offset); this.#code.byte(lane); return this; }
  extractI(lane: number): this { this.simd(27); this.#code.byte(lane); return this; }
  replaceI(lane: number): this { this.simd(28); this.#code.byte(lane); return this; }
  shuffle(lanes: readonly number[]): this { this.simd(13); for (const l of lanes) this.#code.byte(l); return this; }
  /** shuffles 32-bit lanes of two vectors (0-3 the first, 4-7 the second) */
  shuffle32(a: number, b: number, c: number, d: number): this { return this.shuffle([a, b, c, d].flatMap((l) => [4 * l, 4 * l + 1, 4 * l + 2, 4 * l + 3])); }
  f32x4(a: number, b: number = a, c: number = a, d: number = a): this { floats[0] = a; floats[1] = b; floats[2] = c; floats[3] = d; return this.#vconst(floatBytes); }
  i32x4(a: number, b: number = a, c: number = a, d: number = a): this { ints[0] = a; ints[1] = b; ints[2] = c; ints[3] = d; return this.#vconst(intBytes); }
  f64x2(a: number): this { doubles[0] = a; doubles[1] = a; return this.#vconst(doubleBytes); }
  /** Newer engines (V8 of Node 24) build a literal anew wherever it stands, in every turn of a loop: each has a local that is set before the function begins. */
  #vconst(bytes: Uint8Array): this {
    if (bytes.every((b) => b === 0)) { this.simd(12); this.#code.append(bytes); return this; }          // one instruction anywhere
    const key = bytes.join();
    let local = this.#constants.get(key);
    if (local === undefined) {
      this.#constants.set(key, (local = this.v128()));
      this.#prologue.byte(0xfd); this.#prologue.unsigned(12); this.#prologue.append(bytes); this.#prologue.byte(0x21); this.#prologue.unsigned(local);
    }
    return this.get(local);
  }

  block(body: () => void): this { this.#code.byte(0x02); this.#code.byte(0x40); body(); this.#code.byte(0x0b); return this; }
  loop(body: () => void): this { this.#code.byte(0x03); this.#code.byte(0x40); body(); this.#code.byte(0x0b); return this; }
  if(then: () => void, otherwise?: () => void): this {
    this.#code.byte(0x04); this.#code.byte(0x40);
    then();
    if (otherwise) { this.#code.byte(0x05); otherwise(); }
    this.#code.byte(0x0b);
    return this;
  }
  br(depth: number): this { this.#code.byte(0x0c); this.#code.unsigned(depth); return this; }
  brIf(depth: number): this { this.#code.byte(0x0d); this.#code.unsigned(depth); return this; }
  /** `while (condition) body`: the condition leaves an i32 on the stack */
  while(condition: () => void, body: () => void): this {
    return this.block(() => this.loop(() => { condition(); this.i(op.eqz).brIf(1); body(); this.br(0); }));
  }
  /** for (i = from; i < to; i += step), unsigned; `from` undefined keeps i */
  for(i: Local, from: Local | undefined, to: Local, step: number, body: () => void): this {
    if (from !== undefined) this.get(from).set(i);
    return this.while(() => this.get(i).get(to).i(op.ltU), () => { body(); this.add(i, step); });
  }
  /** i += n */
  add(i: Local, n: number): this { return this.get(i).const(n).i(op.add).set(i); }
  /** i += j */
  addTo(i: Local, j: Local): this { return this.get(i).get(j).i(op.add).set(i); }
  /** pushes min(a, b), unsigned, of two locals */
  min(a: Local, b: Local): this { return this.get(a).get(b).get(a).get(b).i(op.ltU).i(op.select); }
  copy(): this { this.#code.byte(0xfc); this.#code.byte(0x0a); this.#code.byte(0); this.#code.byte(0); return this; }
  fill(): this { this.#code.byte(0xfc); this.#code.byte(0x0b); this.#code.byte(0); return this; }
  /** calls the function of the module at `index` (its position in the module's list) */
  call(index: number): this { this.#code.byte(0x10); this.#code.unsigned(index); return this; }

  get size(): number { return this.#prologue.length + this.#code.length; }
  emit(out: Bytes): void {
    const head = new Bytes();
    const runs: [ValueType, number][] = [];
    for (const t of this.#locals) { const last = runs[runs.length - 1]; if (last?.[0] === t) last[1]++; else runs.push([t, 1]); }
    head.unsigned(runs.length);
    for (const [t, n] of runs) { head.unsigned(n); head.byte(t); }
    out.unsigned(head.length + this.size + 1);
    out.append(head.view());
    out.append(this.#prologue.view());
    out.append(this.#code.view());
    out.byte(0x0b);
  }
}

/** What the imported memory looks like; every module of a backend declares the same. */
export interface MemoryType { readonly maximum: number; readonly shared: boolean }

/** A function of another module: its export name and number of i32 parameters. */
export interface Import { readonly name: string; readonly params: number }

/**
 * The bytes of a module that imports memory `m` of `e` and functions of `g`, and exports its exported functions by name.
 * Calls use one index space: imports first, then the functions.
 */
export function assemble(functions: readonly Func[], memory: MemoryType, imports: readonly Import[] = []): Uint8Array<ArrayBuffer> {
  const arities = [...new Set([...imports, ...functions].map((f) => f.params))];
  const out = new Bytes();
  out.append(Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0));
  const section = (id: number, body: (b: Bytes) => void): void => {
    const b = new Bytes();
    body(b);
    out.byte(id);
    out.unsigned(b.length);
    out.append(b.view());
  };
  section(1, (b) => {
    b.unsigned(arities.length);
    for (const n of arities) { b.byte(0x60); b.unsigned(n); for (let i = 0; i < n; i++) b.byte(I32); b.byte(0); }
  });
  section(2, (b) => {
    b.unsigned(1 + imports.length);
    b.text("e"); b.text("m"); b.byte(2);
    b.byte(memory.shared ? 3 : 1); b.unsigned(1); b.unsigned(memory.maximum);
    for (const f of imports) { b.text("g"); b.text(f.name); b.byte(0); b.unsigned(arities.indexOf(f.params)); }
  });
  section(3, (b) => { b.unsigned(functions.length); for (const f of functions) b.unsigned(arities.indexOf(f.params)); });
  section(7, (b) => {
    const exported = functions.filter((f) => f.exported);
    b.unsigned(exported.length);
    for (const f of exported) { b.text(f.name); b.byte(0); b.unsigned(imports.length + functions.indexOf(f)); }
  });
  section(10, (b) => { b.unsigned(functions.length); for (const f of functions) f.emit(b); });
  return out.view().slice();
}
