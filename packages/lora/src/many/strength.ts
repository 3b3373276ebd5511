/** A factor k on an adapter's scale, s = k alpha / r, as a tensor: it may change from call to call without a new plan. */
import { ConfigError, type Tensor } from "@adjoint/tensor";
import type { AdapterMethod, Factors } from "../adapter.ts";
import { Attached, type AdapterTree, type Attachment } from "../attachments.ts";
import type { Tuned } from "../tuned.ts";

/** Roles in which an adapter's update is linear: k B A = (k B) A. Bias on B and factors that an initialisation took out of the base go along. */
const linear: readonly string[] = ["B", "B0", "biasB"];

/** What a frozen DoRA has computed ahead (m / n): it holds for the adapter's own scale alone. */
const ahead: readonly string[] = ["factor"];

/** An adapter without such a role has no scale (biases, whole modules, FLoRA), and VeRA's vectors are its scale. */
export const hasScale = (attachments: readonly Attachment[]): boolean => attachments.some(({ method, factors, beside }) => method.name !== "vera" && ("B" in factors || "B" in (beside ?? {})));

/** k B in place of B; tensors of other roles as they are. */
export function strengthened(p: Factors, k: Tensor | null): Factors {
  if (k === null || !("B" in p)) return p;
  return Object.fromEntries(Object.entries(p).filter(([role]) => !ahead.includes(role)).map(([role, t]) => [role, linear.includes(role) ? t.mul(k.dtype === t.dtype ? k : k.cast(t.dtype)) : t]));
}

/** The method with all its tensors under a factor that is asked for at each use. */
export function strongMethod(method: AdapterMethod, k: () => Tensor | null): AdapterMethod {
  const { weight } = method;
  return {
    ...method,
    forward: (p, site, use) => method.forward(strengthened(p, k()), site, use),
    ...(weight === undefined ? {} : { weight: (p, site, name, w) => weight(strengthened(p, k()), site, name, w) }),
  };
}

/** An adapter's methods as a ModuleAdapter, under a factor. */
export const strongAdapter = (attachments: readonly Attachment[], tree: AdapterTree, dropout: number, k: () => Tensor | null): Attached =>
  new Attached(attachments.map((a) => ({ ...a, method: strongMethod(a.method, k) })), tree, dropout);

/** k as a number is a finite one. @throws ConfigError */
export function checkStrength(name: string, k: number, tuned: Tuned<unknown>): void {
  if (!Number.isFinite(k)) throw new ConfigError(`the scale of adapter ${name} cannot be multiplied by ${k}`, { key: name, value: k, fix: "use a finite number; 0 switches the adapter off" });
  if (!hasScale(tuned.attachments)) throw new ConfigError(`adapter ${name} (${tuned.attachments[0].method.name}) has no scale`, { key: name, value: k, fix: "leave it as it is, or leave it out" });
}
