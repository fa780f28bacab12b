/**
 * Images and layers as they travel: digests, OCI and docker formats, tar, registries. Streams and directory
 * descriptors in, streams out; no database, no global state. What a person may see in a message is an OciError (the
 * input's or the other side's fault, `code` says which) or a SysError (the machine's).
 *
 * A stream is a `ByteSource` (AsyncIterable<Uint8Array>): createReadStream, process.stdin, fetch bodies and the
 * generators of this room are all of that kind. Leaving a `for await` early closes what is behind it.
 *
 * Unpacking a layer:
 *
 *     using root = sys.openat(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY)        // empty, on error the caller removes it
 *     using side = sys.openat(AT_FDCWD, splitFile, O_RDWR | O_CREAT | O_EXCL, 0o600)
 *     const { diffId, size } = await applyLayer(root.n, createReadStream(blob), {
 *       whiteouts: 'overlay', diffId: expected, blob: { digest, size }, record: recordTarSplit(side.n) })
 *
 * The same layer going out, byte for byte: `replayTarSplit(side.n, root.n)`; a new one from an upperdir:
 * `tarTree(upper.n, { contents: 'layer', clampMtime })`.
 */
export * from './error.js'
export * from './digest.js'
export * from './media-types.js'
export * from './descriptor.js'
export * from './manifest.js'
export * from './config.js'
export * from './chain-id.js'
export * from './platform.js'
export * from './reference.js'
export {
  compress,
  decompress,
  defaultExpansionLimit,
  detectCompression,
  peek,
  type AnyCompression,
  type CompressOptions,
  type DecompressOptions,
  type ExpansionLimit,
} from './compression.js'
export * from './id-map.js'
export { applyLayer, applyTar, defaultTarLimits } from './tar-in.js'
export type {
  ApplyLayerOptions,
  ApplyLayerResult,
  ApplyTarOptions,
  ApplyTarResult,
  TarLimits,
} from './tar-in.js'
export type { ExtractOptions } from './tar-extract.js'
export { memoryFileEntry, streamedFile, type MemoryFile } from './tar-entries.js'
export { tarTree, type TarOutOptions, type TarOutResult } from './tar-out.js'
export { endOfArchive } from './tar-writer.js'
export {
  readTarSplitInfo,
  recordTarSplit,
  replayTarSplit,
  TarSplitRecorder,
  type TarSplitInfo,
} from './tar-split.js'
export { LayerTree, layerPath } from './layer-tree.js'
export { TarReader, type TarHandler } from './tar-reader.js'
export { isTarHeader, type Extent, type TarEntry, type TarType } from './tar-format.js'
export * from './image-source.js'
export { openImageArchive } from './archive.js'
export { openFileSet, readSmall, type FileSet } from './file-set.js'
export {
  blobPath,
  layoutArchive,
  LayoutDirectory,
  memoryBlob,
  namedEntries,
  openLayout,
  type BlobToWrite,
} from './layout.js'
export { dockerArchive, type DockerArchiveImage, type DockerArchiveLayer } from './docker-archive.js'
// The registry's client is imported from registry.js itself, so that nothing else loads node:https.
export type { PullBlobOptions, PushResult } from './registry.js'
export type { PushBlobOptions } from './registry-upload.js'
export type { RegistryOptions } from './registry-connection.js'
export {
  authFiles,
  defaultAuthFile,
  findCredentials,
  removeCredentials,
  saveCredentials,
  type Credentials,
} from './auth-file.js'
export {
  parseContainerfile,
  parseInstruction,
  type Containerfile,
  type Heredoc,
  type Instruction,
  type Keyword,
  type Stage,
} from './containerfile.js'
export {
  parseDuration,
  readStep,
  SCRIPTS,
  type BuildStep,
  type Command,
  type CopyStep,
  type Healthcheck,
  type RunStep,
} from './build-step.js'
export {
  mountFrom,
  type CacheRunMount,
  type CacheSharing,
  type RunMount,
  type SecretRunMount,
  type SshRunMount,
} from './run-mount.js'
export {
  expandHeredoc,
  expandWord,
  expandWords,
  splitWords,
  type EscapeChar,
  type Lookup,
} from './shell-words.js'
export { parseDockerignore } from './dockerignore.js'
export { componentExpression, hasWildcard, PathPatterns, withoutEscapes } from './path-patterns.js'
