import { DockerArchiveSource, isDockerArchive } from './docker-archive.js'
import { OciError, type ByteSource } from './error.js'
import { openFileSet } from './file-set.js'
import type { ImageSource } from './image-source.js'
import { isLayout, LayoutSource } from './layout.js'

/**
 * Opens what `save` of any tool wrote, told by content: an OCI layout or a docker archive, as directory, tar, compressed
 * tar or stream. Archives that are both (docker since 25) are read as OCI layouts.
 * @param temp where a stream is spooled
 * @throws OciError `not-found` when it is neither
 */
export async function openImageArchive(source: string | ByteSource, temp?: string): Promise<ImageSource> {
  const files = await openFileSet(source, temp)
  try {
    if (await isLayout(files)) return await LayoutSource.open(files)
    if (await isDockerArchive(files)) return await DockerArchiveSource.open(files)
    throw new OciError(
      'not-found',
      'neither an OCI layout (no index.json) nor a docker archive (no manifest.json)',
    )
  } catch (error) {
    await files.close()
    throw error
  }
}
