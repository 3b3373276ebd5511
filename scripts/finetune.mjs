/** The main job: takes the bundled model through rsLoRA on Moby-Dick. Flags are passed on: `npm run finetune -- --seed 7`. */
import { adjoint } from "./adjoint.mjs";

await adjoint("job", ["finetune", ...process.argv.slice(2)]);
