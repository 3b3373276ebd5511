/**
 * Set-up of every test file: laws draw the same values each time, so that a failure says something about what changed. ADJOINT_SEED names
 * another seed, `random` one of the file's own (fast-check prints it with a failure). A law that names its own seed keeps it.
 */
import fc from "fast-check";

const asked = process.env.ADJOINT_SEED ?? "1", seed = asked === "random" ? Math.floor(Math.random() * 2 ** 31) : Number(asked);
if (!Number.isInteger(seed)) throw new Error(`ADJOINT_SEED is ${JSON.stringify(asked)}: a whole number, or "random"`);
process.env.ADJOINT_SEED = String(seed);
fc.configureGlobal({ ...fc.readConfigureGlobal(), seed });
