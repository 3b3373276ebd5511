/** What an adapter computes once and keeps: constants that follow the base's weights, and for evaluation what follows from its own tensors. */
import { assign, flushAll, zeroStore } from "@adjoint/tensor";
import { type Attachment, tensorsOf } from "./attachments.ts";
import { parametersOf } from "./targets/modules.ts";

/** The constants of attachments from the weights as they are now. */
export function refreshConstants(attachments: readonly Attachment[]): void {
  for (const a of attachments) for (const [role, value] of Object.entries(a.method.constants?.(a.site, parametersOf(a.module)) ?? {})) if (a.beside?.[role] !== undefined) assign([a.beside[role]], [value]);
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
  const values = Object.entries(a.method.settled?.(tensorsOf(a), a.site, parametersOf(a.module)) ?? {});
  if (values.length === 0) return a;
  const stores = values.map(([role, { shape, dtype }]) => zeroStore(shape, dtype, `${a.site.path}.${role}`));
  assign(stores, values.map(([, value]) => value));
  return { ...a, beside: { ...a.beside, ...Object.fromEntries(values.map(([role], i) => [role, stores[i]])) } };
}
