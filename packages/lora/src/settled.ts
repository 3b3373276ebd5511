/** What an adapter computes once and keeps: constants that follow the base's weights, and for evaluation what follows from its own tensors. */
import { assign, flushAll, type Store, zeroStore } from "@adjoint/tensor";
import type { Factors } from "./adapter.ts";
import { type Attachment, tensorsOf } from "./attachments.ts";
import { parametersOf } from "./targets/modules.ts";

/** What follows from an attachment's tensors alone; from those that are no such result themselves. */
function settlement(a: Attachment): Factors {
  const of = (p: Factors): Factors => a.method.settled?.(p, a.site, parametersOf(a.module)) ?? {}, all = tensorsOf(a), known = of(all);
  return Object.keys(known).some((role) => role in all) ? of(Object.fromEntries(Object.entries(all).filter(([role]) => !(role in known)))) : known;
}

/** The constants of attachments from the weights as they are now, and what was settled ahead with them. */
export function refreshConstants(attachments: readonly Attachment[]): void {
  const refresh = (a: Attachment, values: Factors): void => { for (const [role, value] of Object.entries(values)) if (a.beside?.[role] !== undefined) assign([a.beside[role]], [value]); };
  for (const a of attachments) {
    refresh(a, a.method.constants?.(a.site, parametersOf(a.module)) ?? {});
    refresh(a, settlement(a));
  }
}

/** The same attachments with tensors of their own for all that training changes; those that several use stay one. */
export function copied(attachments: readonly Attachment[]): readonly Attachment[] {
  const copies = new Map<Store, Store>();
  for (const { factors, beside = {}, method } of attachments) {
    for (const s of [...Object.values(factors), ...Object.entries(beside).flatMap(([role, t]) => (method.moving?.includes(role) === true ? [t] : []))]) {
      if (!copies.has(s)) copies.set(s, zeroStore(s.shape, s.dtype, s.name).usedAs("adapter"));
    }
  }
  assign([...copies.values()], [...copies.keys()]);
  const own = (stores: Readonly<Record<string, Store>>): Readonly<Record<string, Store>> => Object.fromEntries(Object.entries(stores).map(([role, s]) => [role, copies.get(s) ?? s]));
  return attachments.map((a) => ({ ...a, factors: own(a.factors), ...(a.beside === undefined ? {} : { beside: own(a.beside) }) }));
}

/** Attachments with constants, by their base. */
const followers = new WeakMap<object, Set<WeakRef<readonly Attachment[]>>>();
/** From now on the constants of these follow what `baseChanged` says; they may be collected. */
export function followBase(base: object, attachments: readonly Attachment[]): void {
  if (attachments.some((a) => a.method.constants !== undefined)) followers.set(base, (followers.get(base) ?? new Set()).add(new WeakRef(attachments)));
}
/** A merge has put other weights into the base: constants of all its adapters, merged or not, are computed anew, at once: the weights may be set again. */
export function baseChanged(base: object): void {
  const refs = followers.get(base);
  refs?.forEach((ref) => {
    const attachments = ref.deref();
    if (attachments === undefined) refs.delete(ref);
    else refreshConstants(attachments);
  });
  if (refs !== undefined) flushAll();
}

/** The attachment with what follows from its tensors alone, as they are now, beside it; itself where its method has no such thing. */
export function settled(a: Attachment): Attachment {
  const values = Object.entries(settlement(a));
  if (values.length === 0) return a;
  const stores = values.map(([role, { shape, dtype }]) => zeroStore(shape, dtype, `${a.site.path}.${role}`));
  assign(stores, values.map(([, value]) => value));
  return { ...a, beside: { ...a.beside, ...Object.fromEntries(values.map(([role], i) => [role, stores[i]])) } };
}
