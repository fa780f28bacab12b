import { chmodSync, copyFileSync, existsSync, mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { importRootfs } from '../../src/manager/index.js'
import { packTree } from '../../src/manager/layer-tar.js'
import { Bench, isRoot, lacking } from './fixture.js'

const BUSYBOX = '/bin/busybox'
/** Why nothing can run in the image `box` here; false where it can. */
export const skipBox = !isRoot
  ? 'needs root'
  : (lacking('busybox') ?? (existsSync(BUSYBOX) ? false : 'no static busybox'))

const APPLETS =
  'sh cat id echo sleep ls env touch mkdir rm ln dd df du stat hostname mount umount ps kill mv chown'.split(
    ' ',
  )

/** A store with the image `box`: busybox and three users. */
export async function withBox(t: Test): Promise<Bench> {
  const bench = new Bench(t)
  const tree = bench.tree('tree', {
    'etc/passwd': 'root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n',
    'var/data/seed': 'seed\n',
  })
  mkdirSync(join(tree, 'bin'))
  copyFileSync(BUSYBOX, join(tree, 'bin/busybox'))
  chmodSync(join(tree, 'bin/busybox'), 0o755)
  for (const name of APPLETS) symlinkSync('busybox', join(tree, 'bin', name))
  symlinkSync('../../../../run/resolv', join(tree, 'etc/resolv.conf'))
  const store = await bench.open()
  await importRootfs(store, packTree(tree), {
    name: 'box',
    changes: ['ENV COLOUR=red', 'CMD ["echo","the command"]'],
  })
  store.close()
  return bench
}
