/** @adjoint/tensor: lazy tensors with eager shapes. */
export * from "./errors.ts";
export * from "./dtype.ts";
export * from "./shape.ts";
export * from "./expr.ts";
export * from "./backend.ts";
