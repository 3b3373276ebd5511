/** Dense linear algebra on the host: small matrices of f64, exact to rounding, the same bits on every machine. */
export { type Matrix, matrixOf, hostOf, zeroMatrix, identityMatrix, transposed } from "./matrix.ts";
export { product, type ProductOptions, scaleColumns, scaleRows } from "./product.ts";
export { qr, type QR, type QROptions } from "./qr.ts";
export { svd, type SVD, truncate, lowRank, pinv, type PinvOptions } from "./svd.ts";
export { svdLowrank, type SVDLowrankOptions } from "./svd-lowrank.ts";
export { solve, cholesky } from "./solve.ts";
export { eigSymmetric, type Eigen } from "./eigen.ts";
export { sylvester } from "./sylvester.ts";
export { quantile, kthvalue } from "./quantile.ts";
