/** @adjoint/testing: arbitraries, an oracle, gradient checks and the conformance suite. */
export * from "./arbitraries.ts";
export { assignmentPrograms, checkAssignments, showAssignments, type AssignmentProgram } from "./assignments.ts";
export * from "./bounds.ts";
export { conform, forward, unfused, disguise, type Conformance, type ConformOptions, type Law, type Layout } from "./conform.ts";
export { attentionSubjects, largeAttentionSubjects } from "./attention.ts";
export { coded, codeLaws, type Coded } from "./codes.ts";
export { tensorSubjects } from "./core.ts";
export { answer, evaluate, record, type Recording } from "./evaluate.ts";
export { checkGradient, checkModel, type CheckOptions, type Checked } from "./gradient.ts";
export { interpret, programs, rootsOf, showProgram, steps, type Program, type Word } from "./graphs.ts";
export { largeSubjects } from "./large.ts";
export { compareTraces, drivers, loops, stateful, stateless, type Driver, type Loop, type Trace } from "./loops.ts";
export { judge, oracle, type Judged } from "./oracle.ts";
export { sample, subjectOf, type Sample, type Subject, type Testable } from "./subjects.ts";
export { mutants, type Mutant } from "./mutants.ts";
