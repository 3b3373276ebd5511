/** Kernels to recipes, and recipes to instantiated code; equal keys share code while any plan uses it. */
import { DeviceError, type Kernel } from "@adjoint/tensor";
import { assemble, type Func, type MemoryType } from "./assembler.ts";
import { colsRecipe } from "./cols.ts";
import { contractRecipe } from "./contract.ts";
import { dequantizeRecipe } from "./decode.ts";
import { library, libraryImports, libraryIndex } from "./gemm.ts";
import { gatherRecipe, scatterAddRecipe } from "./lookup.ts";
import { mapRecipe } from "./map.ts";
import type { Recipe, Target } from "./recipe.ts";
import { rowsRecipe } from "./rows.ts";

/** (argument block, thread, threads) */
export type KernelFunction = (args: number, thread: number, threads: number) => void;

export function recipeOf(k: Kernel, target: Target): Recipe {
  switch (k.kind) {
    case "map": return mapRecipe(k);
    case "rows": return rowsRecipe(k, target);
    case "cols": return colsRecipe(k, target);
    case "contract": return contractRecipe(k, target);
    case "gather": return gatherRecipe(k);
    case "scatterAdd": return scatterAddRecipe(k);
    case "composite": if (k.name === "dequantize") return dequantizeRecipe(k, libraryIndex); throw new DeviceError(`wasm has no kernel for the composite ${k.name}`, { op: k.name, fix: "run its definition: it is not listed in Backend.composites" });
    default: return k satisfies never;
  }
}

/** Code of one key. */
export interface Entry {
  readonly id: number;
  readonly key: string;
  readonly phases: readonly KernelFunction[];
  readonly module: Loaded;
  users: number;
}
/** A module that may be alive in workers too. */
export interface Loaded { readonly bytes: Uint8Array<ArrayBuffer>; readonly ids: readonly number[] }

/** The place of phase `phase` of kernel `id` in a worker's table. */
export const MAX_PHASES = 16;

export class Compiler {
  readonly #memory: WebAssembly.Memory;
  readonly #type: MemoryType;
  readonly #library: WebAssembly.Exports;
  readonly libraryBytes: Uint8Array<ArrayBuffer>;
  readonly #entries = new Map<string, Entry>();
  #next = 0;
  modules = 1;

  constructor(memory: WebAssembly.Memory, type: MemoryType, target: Target) {
    this.#memory = memory;
    this.#type = type;
    this.libraryBytes = assemble(library(target.tile), type);
    this.#library = new WebAssembly.Instance(new WebAssembly.Module(this.libraryBytes), { e: { m: memory } }).exports;
  }

  /** Entries for all recipes; what is new is compiled as one module. Returns the module, if one was made. */
  get(recipes: readonly Recipe[]): { entries: Entry[]; loaded: Loaded | undefined } {
    const fresh = new Map<string, { id: number; phases: number }>();
    const functions: Func[] = [];
    for (const r of recipes) {
      if (this.#entries.has(r.key) || fresh.has(r.key)) continue;
      if (r.phases > MAX_PHASES) throw new DeviceError(`wasm: a row kernel with more than ${MAX_PHASES - 1} dependent statistics`, { value: r.phases, fix: "split the expression" });
      const id = this.#next++;
      functions.push(...r.emit(`${id}`, libraryImports.length + functions.length));
      fresh.set(r.key, { id, phases: r.phases });
    }
    let loaded: Loaded | undefined;
    if (functions.length > 0) {
      const bytes = assemble(functions, this.#type, libraryImports);
      loaded = { bytes, ids: [...fresh.values()].map((x) => x.id) };
      const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { e: { m: this.#memory }, g: this.#library });
      this.modules++;
      for (const [key, { id, phases }] of fresh) {
        const list = Array.from({ length: phases }, (_, p) => {
          const f = exports[`${id}.${p}`];
          if (typeof f !== "function") throw new DeviceError(`wasm: kernel ${id} has no phase ${p}`);
          return f as KernelFunction;
        });
        this.#entries.set(key, { id, key, phases: list, module: loaded, users: 0 });
      }
    }
    const entries = recipes.map((r) => {
      const e = this.#entries.get(r.key);
      if (e === undefined) throw new DeviceError("wasm: a kernel was not compiled");
      e.users++;
      return e;
    });
    return { entries, loaded };
  }
  /** Lets code go that no plan uses; returns the ids of what went. */
  release(entries: readonly Entry[]): number[] {
    const gone: number[] = [];
    for (const e of entries) if (--e.users === 0) { this.#entries.delete(e.key); gone.push(e.id); }
    return gone;
  }
  /** Modules that entries in use need. */
  alive(): Loaded[] { return [...new Set([...this.#entries.values()].map((e) => e.module))]; }
}
