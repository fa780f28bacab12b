/** Real trees in and out as root, with GNU tar, umoci and the kernel's overlayfs as oracles. */
import { createReadStream, createWriteStream, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import t from 'tap'
import {
  applyLayer,
  compress,
  Digester,
  digestOf,
  openLayout,
  recordTarSplit,
  replayTarSplit,
  resolveManifest,
  tarTree,
  type Descriptor,
  type TarOutOptions,
} from '../../src/oci/index.js'
import * as sys from '../../src/sys/index.js'
import { makeLayout, missing, scratch, sh } from './oci-tools.js'

const skip = missing('tar', 'getfattr', 'setfacl', 'zstd')
const tarIn = `tar --numeric-owner --xattrs --xattrs-include='*' --acls`

/** A part of this machine's own system, and what a system seldom has. */
function makeTree(path: string): void {
  sh(
    `
    mkdir -p tree/usr/share tree/var tree/dev tree/acl
    cp -a /etc tree/etc
    cp -a /usr/sbin tree/usr/sbin
    cp -a /usr/share/zoneinfo tree/usr/share/zoneinfo
    mkdir tree/var/dpkg && cp -a /var/lib/dpkg/info/lib[a-c]* tree/var/dpkg
    cd tree
    ln etc/passwd etc/passwd.hard
    cp -a usr/sbin/chroot var/capable && setcap cap_net_raw+ep var/capable 2>/dev/null || setfattr -n security.capability -v 0sAQAAAgAgAAAAAAAAAAAAAAAAAAA= var/capable
    install -m 4755 -o 33 -g 44 /bin/true var/setuid
    mknod -m 600 dev/block b 7 200 && mknod -m 666 dev/null c 1 3 && mkfifo dev/fifo
    setfacl -m u:1234:rwx,g:77:r-x acl && setfacl -d -m u:99:rw- acl && touch acl/inside
    setfattr -n user.binary -v 0s/wABCj0= etc/hostname
    setfattr -n trusted.mine -v yes etc
    touch $'etc/\\xff\\xfe' $'etc/new\\nline' 'etc/ leading and trailing ' 'etc/quote"and\\back'
    truncate -s 30M var/sparse && printf x | dd of=var/sparse bs=1 seek=15000000 conv=notrunc status=none
    truncate -s 3M var/hole
    d=$(printf 'd%.0s' $(seq 120)); mkdir -p "long/$d/$d/$d"; echo deep > "long/$d/$d/$d/file"
    ln -s "$(printf 'l%.0s' $(seq 300))" long/link
    touch -d '1965-03-04 05:06:07.123456789' etc/old && touch -d '2050-01-01' etc/future
    chown 3000000:2500000 etc/old && chmod 1777 var && chmod 0 etc/future
    ln -s nowhere dev/dangling && ln dev/dangling dev/dangling.hard
    `,
    path,
  )
}

/** What find, md5sum and getfattr say about a tree; directory sizes are the filesystem's own affair. */
function describe(path: string): string[] {
  return sh(
    `
    find . -printf '%p\\t%y\\t%m\\t%U:%G\\t%T@\\t%l\\0' | sed -z 's/\\n/\\\\n/g' | sort -z | tr '\\0' '\\n'
    find . ! -type d -printf '%p\\t%s\\t%n\\0' | sed -z 's/\\n/\\\\n/g' | sort -z | tr '\\0' '\\n'
    find . \\( -type b -o -type c \\) -exec stat -c '%n %t %T' {} + | sort
    find . -type f -print0 | sort -z | xargs -0 md5sum
    find . -print0 | sort -z | xargs -0 getfattr -h -d -m - --absolute-names
    `,
    path,
  ).split('\n')
}

async function unpack(path: string, root: string, split?: string) {
  mkdirSync(root)
  using fd = sys.openat(sys.AT_FDCWD, root, sys.O_RDONLY | sys.O_DIRECTORY)
  using side =
    split === undefined ? undefined : sys.openat(sys.AT_FDCWD, split, sys.O_RDWR | sys.O_CREAT, 0o600)
  return await applyLayer(fd.n, createReadStream(path, { highWaterMark: 1 << 20 }), {
    whiteouts: 'overlay',
    record: side === undefined ? undefined : recordTarSplit(side.n),
  })
}

async function writeTree(root: string, path: string, options: TarOutOptions): Promise<string> {
  using fd = sys.openat(sys.AT_FDCWD, root, sys.O_RDONLY | sys.O_DIRECTORY)
  const digester = new Digester()
  async function* counted() {
    for await (const chunk of tarTree(fd.n, options)) {
      digester.update(chunk)
      yield chunk
    }
  }
  await pipeline(counted(), createWriteStream(path))
  return digester.digest()
}

async function replay(root: string, split: string): Promise<string> {
  using fd = sys.openat(sys.AT_FDCWD, root, sys.O_RDONLY | sys.O_DIRECTORY)
  using side = sys.openat(sys.AT_FDCWD, split, sys.O_RDONLY)
  const digester = new Digester()
  for await (const chunk of replayTarSplit(side.n, fd.n)) digester.update(chunk)
  return digester.digest()
}

t.test('a real tree', { skip }, async t => {
  const place = scratch('lamina-tar-')
  t.teardown(() => rmSync(place, { recursive: true, force: true }))
  makeTree(place)
  const tree = join(place, 'tree')
  const expected = describe(tree)
  t.ok(expected.length > 2000, `${expected.length} lines`)

  for (const [name, flags] of [
    ['posix', '--format=posix -S'],
    ['posix-plain', '--format=posix'],
    ['gnu', '--format=gnu -S'],
  ] as const) {
    await t.test(`packed by GNU tar (${name}) it arrives complete and goes out with its digest`, async t => {
      const archive = join(place, `${name}.tar`)
      const attributes = name === 'gnu' ? 'tar --numeric-owner' : tarIn
      sh(`${attributes} ${flags} -C tree -cf ${archive} .`, place)
      sh(`rm -rf oracle && mkdir oracle && ${tarIn} -C oracle -xf ${archive}`, place)
      const result = await unpack(archive, join(place, name), join(place, `${name}.split`))
      t.same(result.warnings, [])
      t.same(describe(join(place, name)), describe(join(place, 'oracle')), 'as GNU tar unpacks it')
      if (name !== 'gnu') t.same(describe(join(place, name)), expected, 'as it was')
      t.equal(result.diffId, digestOf(readFileSync(archive)))
      t.equal(
        await replay(join(place, name), join(place, `${name}.split`)),
        result.diffId,
        'the same bytes again',
      )
      const side = statSync(join(place, `${name}.split`)).size
      t.ok(side < result.size / 50, `side file of ${side} bytes for ${result.size}`)
      sh(`rm -rf oracle ${name} ${name}.tar`, place)
    })
  }

  let plainSize = 0
  for (const sparse of [false, true]) {
    await t.test(
      `packed by us (${sparse ? 'sparse' : 'plain'}) it is complete for GNU tar, and reproducible`,
      async t => {
        const archive = join(place, 'ours.tar')
        const digest = await writeTree(tree, archive, { contents: 'plain', root: true, sparse })
        sh(`rm -rf theirs && mkdir theirs && ${tarIn} -C theirs -xf ours.tar`, place)
        t.same(describe(join(place, 'theirs')), expected)
        // The tree has two files with 33 MB of holes.
        if (sparse) t.ok(statSync(archive).size < plainSize - 32e6, 'holes take no room')
        else plainSize = statSync(archive).size
        // another copy, made in another order, with other inode numbers
        sh(
          `rm -rf copy && mkdir copy && ${tarIn} -C tree -cf - --sort=none . | ${tarIn} -C copy -xf -`,
          place,
        )
        t.equal(
          (await writeTree(join(place, 'copy'), join(place, 'again.tar'), {
            contents: 'plain',
            root: true,
          })) === digest,
          !sparse,
        )
        if (sparse) {
          t.equal(statSync(join(place, 'theirs/var/sparse')).blocks * 512 < 1e6, true)
          await unpack(archive, join(place, 'in'))
          t.same(describe(join(place, 'in')), expected, 'for us too')
        }
        const clamped = await writeTree(tree, archive, { contents: 'plain', clampMtime: 1_000_000_000 })
        sh('rm -rf theirs && mkdir theirs && tar -C theirs -xf ours.tar', place)
        t.equal(
          sh(`find . -newermt '@1000000001' ! -name . | wc -l`, join(place, 'theirs')).trim(),
          '0',
          'SOURCE_DATE_EPOCH',
        )
        t.not(clamped, digest)
      },
    )
  }

  await t.test('compressed in every way it is the same layer', async t => {
    const archive = join(place, 'packed.tar')
    const diffId = await writeTree(tree, archive, { contents: 'plain', sparse: true })
    sh('gzip -1 -k packed.tar; zstd -q -1 packed.tar; xz -0 -T0 -k packed.tar', place)
    await pipeline(
      compress(createReadStream(archive), 'gzip', { level: 1 }),
      createWriteStream(join(place, 'packed.tar.our.gz')),
    )
    await pipeline(
      compress(createReadStream(archive), 'zstd'),
      createWriteStream(join(place, 'packed.tar.our.zst')),
    )
    for (const ending of ['gz', 'zst', 'xz', 'our.gz', 'our.zst']) {
      const result = await unpack(`${archive}.${ending}`, join(place, `packed-${ending}`))
      t.equal(result.diffId, diffId, ending)
      rmSync(join(place, `packed-${ending}`), { recursive: true })
    }
    t.equal(sh('gzip -dc packed.tar.our.gz | sha256sum', place).slice(0, 64), diffId.slice(7))
    t.equal(sh('zstd -dcq packed.tar.our.zst | sha256sum', place).slice(0, 64), diffId.slice(7))
  })
})

t.test(
  'layers mounted by the kernel’s overlayfs are what umoci unpacks',
  { skip: missing('umoci', 'busybox', 'tar', 'getfattr') },
  async t => {
    const place = scratch('lamina-umoci-')
    makeLayout(place)
    const layout = await openLayout(join(place, 'layout'))
    t.teardown(async () => {
      await layout.close()
      sh(`mountpoint -q merged && umount merged || true`, place)
      rmSync(place, { recursive: true, force: true })
    })
    const { manifest } = await resolveManifest(layout, layout.images[0]?.descriptor as Descriptor)
    const roots: string[] = []
    for (const [i, layer] of manifest.layers.entries()) {
      const root = join(place, `layer${i}`)
      mkdirSync(root)
      using fd = sys.openat(sys.AT_FDCWD, root, sys.O_RDONLY | sys.O_DIRECTORY)
      await applyLayer(fd.n, layout.blob(layer), { whiteouts: 'overlay', blob: layer })
      roots.unshift(root)
    }
    sh('umoci unpack --image layout:v1 bundle >/dev/null; mkdir merged up work', place)
    sh(`mount -t overlay overlay -o lowerdir=${roots.join(':')},upperdir=up,workdir=work merged`, place)
    // umoci marks directories that it unpacks with times of its own where none was given: only the root
    const ours = describe(join(place, 'merged'))
    const theirs = describe(join(place, 'bundle', 'rootfs'))
    const relevant = (lines: string[]) =>
      lines.filter(line => !line.startsWith('.\t') && !line.includes('user.rootlesscontainers'))
    t.same(relevant(ours), relevant(theirs))
    t.equal(readFileSync(join(place, 'merged/etc/hello'), 'utf8'), 'changed\n')

    await t.test('a change made there is a layer that umoci takes', async t => {
      sh(
        `rm etc/hello && rm -r home && mkdir home && echo n > home/n && echo new > bin/new && ln bin/new bin/new2 && chmod 700 etc`,
        join(place, 'merged'),
      )
      const expected = describe(join(place, 'merged'))
      sh('umount merged', place)
      const digest = await writeTree(join(place, 'up'), join(place, 'three.tar'), { contents: 'layer' })
      t.same(sh('tar tf three.tar', place).split('\n').filter(Boolean), [
        'bin/',
        'bin/new',
        'bin/new2',
        'etc/',
        'etc/.wh.hello',
        'home/',
        'home/.wh..wh..opq',
        'home/n',
      ])
      sh(
        'umoci raw add-layer --image layout:v1 three.tar && rm -rf bundle && umoci unpack --image layout:v1 bundle >/dev/null',
        place,
      )
      const other = await openLayout(join(place, 'layout'))
      const image = other.images.find(({ names }) => names.includes('v1'))
      const added = await resolveManifest(other, image?.descriptor as Descriptor)
      t.equal(added.manifest.layers.length, 3)
      await other.close()
      const plain = (lines: string[]) => relevant(lines)
      t.same(plain(describe(join(place, 'bundle', 'rootfs'))), plain(expected))
      t.match(digest, /^sha256:/)
    })
  },
)

t.test(
  'metacopy files and renamed directories of an upperdir go out whole, with the merged view at hand',
  { skip: missing('tar', 'getfattr') },
  async t => {
    const place = scratch('lamina-metacopy-')
    t.teardown(() => {
      sh('! mountpoint -q merged || umount merged; ! mountpoint -q again || umount again', place)
      rmSync(place, { recursive: true, force: true })
    })
    sh(
      `
      mkdir -p lower/dir/sub up work merged up2 work2 again
      echo data > lower/file; echo kept > lower/dir/sub/kept; echo gone > lower/dir/gone
      mount -t overlay overlay -o lowerdir=lower,upperdir=up,workdir=work,metacopy=on,redirect_dir=on merged
      chmod 600 merged/file && mv merged/dir merged/renamed && rm merged/renamed/gone && echo new > merged/renamed/new
      sync merged/file
      `,
      place,
    )
    t.match(
      sh('getfattr -d -m trusted.overlay --absolute-names up/file up/renamed', place),
      /metacopy[^]*redirect/,
    )
    const expected = describe(join(place, 'merged'))
    await t.rejects(
      writeTree(join(place, 'up'), join(place, 'layer.tar'), { contents: 'layer' }),
      { code: 'unsupported', message: /lower layer/ },
      'not without it',
    )
    {
      using merged = sys.openat(sys.AT_FDCWD, join(place, 'merged'), sys.O_RDONLY | sys.O_DIRECTORY)
      await writeTree(join(place, 'up'), join(place, 'layer.tar'), { contents: 'layer', mergedFd: merged.n })
    }
    await unpack(join(place, 'layer.tar'), join(place, 'layer'))
    sh(
      'umount merged && mount -t overlay overlay -o lowerdir=layer:lower,upperdir=up2,workdir=work2 again',
      place,
    )
    const withoutRoot = (lines: string[]) => lines.filter(line => !line.startsWith('.\t'))
    t.same(withoutRoot(describe(join(place, 'again'))), withoutRoot(expected))
  },
)
