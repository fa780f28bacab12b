import { run, manifest, type Bench } from './fixture.js'

/**
 * An image of three layers made by buildah alone, without running anything in it, and the tree that buildah shows of it: names that are
 * not UTF-8 or very long, holes, hard links, devices, setuid, capabilities and user attributes, ACLs, old and odd times; then deletions, a directory
 * that hides the lower one, a file in place of a directory and the other way round. No name of a file with several goes: overlays go on counting it.
 */
export interface BuildahImage {
  /** An oci-archive, packed by buildah. */
  readonly archive: string
  readonly dockerArchive: string
  /** Of the manifest in `archive`. */
  readonly digest: string
  readonly tree: readonly string[]
}

const SCRIPT = `
  b="buildah --root $1/root --runroot $1/run --storage-driver overlay"
  c=$($b from scratch); cd "$($b mount $c)"
  mkdir -p bin etc/deep usr/lib var/old swap dev "$(printf 'd%.0s' $(seq 200))/$(printf 'e%.0s' $(seq 200))"
  echo one > etc/motd; echo two > etc/deep/two; echo x > var/old/gone; echo y > var/old/too; echo file > swap/file
  echo tool > bin/tool; chmod 4755 bin/tool; ln bin/tool bin/again; ln -s ../etc/motd usr/link
  touch "$(printf 'caf\\351')"; truncate -s 3M etc/holes; printf tail >> etc/holes
  mknod dev/null c 1 3; mkfifo var/fifo; chown 1000:2000 etc/deep/two; chmod 1777 var
  setfattr -n user.note -v text etc/motd; setcap cap_net_raw+ep bin/tool 2>/dev/null || true
  setfacl -m u:1000:r etc/motd 2>/dev/null || true
  touch -d @1 etc/motd; touch -d @-5 usr/lib; touch -d @1600000000.123456789 var/old/too
  cd /; $b umount $c >/dev/null; $b commit -q $c one >/dev/null
  c=$($b from one); cd "$($b mount $c)"
  rm etc/motd; rm -r var/old; mkdir var/old; echo new > var/old/new; rm -r swap; echo now a file > swap
  cd /; $b umount $c >/dev/null; $b commit -q $c two >/dev/null
  c=$($b from two); cd "$($b mount $c)"
  rm swap; mkdir swap; echo back > swap/again; echo changed >> etc/deep/two; rm -r usr
  cd /; $b umount $c >/dev/null; $b commit -q $c three >/dev/null
  $b push -q three oci-archive:$1/oci.tar:three; $b push -q three docker-archive:$1/docker.tar:example.com/three:1
  c=$($b from three); $b mount $c
`

export function buildahImage(bench: Bench): BuildahImage {
  const home = bench.path('b')
  const tree =
    run('bash', ['-euc', `mkdir "$1"; ${SCRIPT}`, 'sh', home])
      .trim()
      .split('\n')
      .at(-1) ?? ''
  const [digest = ''] =
    run('tar', ['-xOf', `${home}/oci.tar`, 'index.json']).match(/sha256:[0-9a-f]{64}/) ?? []
  return {
    archive: `${home}/oci.tar`,
    dockerArchive: `${home}/docker.tar`,
    digest,
    tree: withAttributes(tree),
  }
}

/** {@link manifest}, times in seconds, and attributes. Docker's archives have no fractions. */
export function withAttributes(dir: string): string[] {
  const attributes = run('bash', ['-c', `cd "$1" && getfattr -R -h -d -m - . | grep -v selinux`, 'sh', dir])
  return [...manifest(dir).map(line => line.replace(/\.\d{10}\|/, '|')), ...attributes.split('\n').sort()]
}
