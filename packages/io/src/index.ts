/** @adjoint/io: files of tensors, read lazily and written atomically. */
export { FileError, disk, fileSystem, node, withFileSystem } from "./file-system.ts";
export type { FileSystem, NodeModules, OutputFile } from "./file-system.ts";
export { appendLine, incompletePath, writeFileAtomic, writeFileResumable } from "./files.ts";
export type { Bytes, Content, WriteOptions } from "./files.ts";
export { recoverDirectory, writeDirectoryAtomic } from "./directories.ts";
export type { WriteDirectoryOptions } from "./directories.ts";
export { isRecord, parseJson, parseJsonObject } from "./json.ts";
export { blobSource, bytesSource, fileSource, readText } from "./source.ts";
export type { ByteSource } from "./source.ts";
export { openSafetensors, parseSafetensors, safetensorsParts, saveSafetensors, serializeSafetensors } from "./safetensors.ts";
export type { NamedArrays, ParsedSafetensors, SafetensorsFile } from "./safetensors.ts";
export type { TensorEntry } from "./safetensors-header.ts";
export type { StoredDType } from "./stored.ts";
export { modelFiles, openModelFolder } from "./model-folder.ts";
export type { ShardOptions } from "./model-folder.ts";
export { parseNpy, readNpy, saveNpy, serializeNpy } from "./npy.ts";
