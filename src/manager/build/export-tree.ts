/**
 * `--output DIR`: the tree of an image as files of the caller. The image is a stranger's: nothing that gives its files
 * more than the caller has comes along (owners, setuid and setgid, capabilities, device nodes), and nothing is written
 * outside the directory.
 */
import { fromUtf8, type ByteName } from '../../base/bytes.js'
import * as sys from '../../sys/index.js'
import { Copier } from '../copy-tree.js'
import type { Store } from '../store.js'
import { Selection } from './copy-selection.js'
import { copyContents } from './copy-walk.js'
import { Sources } from './sources.js'

/**
 * Made where it is missing, added to where it is there.
 * @returns device nodes that were left out
 */
export async function exportTree(
  store: Store,
  ref: string,
  directory: string,
  signal?: AbortSignal,
): Promise<ByteName[]> {
  const image = store.images.find(ref)
  using lease = store.lease()
  if (image.chainId !== undefined) lease.keepChain(image.chainId)
  using to = sys.openat(sys.AT_FDCWD, fromUtf8(directory), sys.O_RDONLY | sys.O_DIRECTORY)
  const uid = process.geteuid?.() ?? 0
  const gid = process.getegid?.() ?? 0
  const copier = new Copier(to.n, signal, {
    uid,
    gid,
    changeMode: (mode, isDirectory) => mode & (isDirectory ? 0o1777 : 0o777),
    harmless: true,
  })
  const left: ByteName[] = []
  const skip = ({ mode }: sys.Stat, path: ByteName): boolean => {
    const isDevice = sys.S_ISCHR(mode) || sys.S_ISBLK(mode)
    if (isDevice) left.push(path)
    return isDevice
  }
  await new Sources(store, undefined).withChain(image.chainId, 'the image', async source => {
    using from = sys.openat(source.root, '.', sys.O_RDONLY | sys.O_DIRECTORY)
    await copyContents(
      { source, selection: new Selection(undefined, undefined), copier, skip },
      from.n,
      to,
      '',
    )
  })
  return left
}
