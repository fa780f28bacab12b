import t from 'tap'
import { splitList, splitOptions, unescape } from '../../src/daemon/option-string.js'
import { OptionError, parseOptions } from '../../src/daemon/options.js'
import {
  decodeSpec,
  DROP_IN_DEFAULTS,
  encodeSpec,
  LAMINA_DEFAULTS,
  mountSpec,
} from '../../src/daemon/spec.js'

t.test('options are split at commas, empty ones are skipped', async t => {
  t.strictSame(splitOptions('a=1,,b,'), ['a=1', 'b'])
  t.strictSame(splitOptions(''), [])
  t.strictSame(splitOptions(',,'), [])
})

t.test('a backslash keeps a comma inside a value', async t => {
  t.strictSame(splitOptions('upperdir=/a\\,b,ro'), ['upperdir=/a\\,b', 'ro'])
  t.equal(parseOptions(['upperdir=/a\\,b,ro']).upper, '/a,b')
})

t.test('a quoted value keeps its commas, a quote elsewhere is an ordinary character', async t => {
  t.strictSame(splitOptions('context="u:r:t:s0:c1,c2",ro'), ['context=u:r:t:s0:c1\\,c2', 'ro'])
  t.strictSame(splitOptions('upperdir=/a"b,ro'), ['upperdir=/a"b', 'ro'])
  t.strictSame(splitOptions('upperdir="ab,ro'), ['upperdir="ab', 'ro'])
})

t.test('backslashes and octal numbers are resolved', async t => {
  t.equal(unescape('a\\:b\\\\c\\,d\\054e'), 'a:b\\c,d,e')
  t.equal(unescape('end\\'), 'end\\')
  t.equal(unescape('\\377\\400'), '\xff400')
})

t.test('lowerdir lists the top layer first, and `\\:` is a colon in a path', async t => {
  t.strictSame(splitList('/a:/b\\:c:/d'), { lower: ['/a', '/b:c', '/d'], dataOnly: [] })
  t.strictSame(splitList(':/a:'), { lower: ['/a'], dataOnly: [] })
})

t.test('`::` begins data-only layers', async t => {
  t.strictSame(splitList('/a:/b::/d1::/d2'), { lower: ['/a', '/b'], dataOnly: ['/d1', '/d2'] })
  t.strictSame(splitList('::/a'), { lower: ['/a'], dataOnly: [] })
})

t.test('500 long layers parse', async t => {
  const layers = Array.from({ length: 500 }, (_v, i) => `/${'x'.repeat(200)}/${i}`)
  t.strictSame(parseOptions([`lowerdir=${layers.join(':')}`]).lower, layers)
})

t.test('later -o strings add, and replace what was given before', async t => {
  const parsed = parseOptions(['lowerdir=/a,timeout=5,ro', 'lowerdir=/b,timeout=0.5', 'rw,lowerdir+=/c:d'])
  t.strictSame(parsed.lower, ['/b', '/c:d'])
  t.equal(parsed.options.timeout, 0.5)
  t.notOk(parsed.flags.has('ro'))
})

t.test('every option of the drop-in contract is known', async t => {
  const parsed = parseOptions([
    'lowerdir=/l,upperdir=/u,workdir=/w,uidmapping=:0:1000:1:1:110000:65536,gidmapping=0:1000:1',
    'squash_to_root,squash_to_uid=5,squash_to_gid=6,xattr_permissions=2,timeout=3,threaded=1,fsync=0,volatile',
    'writeback=1,fast_ino=1,noxattrs=1,static_nlink,noacl,redirect_dir=on,context="a:b,c",plugins=x,xino=on,ino32_t',
    'allow_root,allow_other,default_permissions,suid,dev,exec,noatime,nodiratime,splice_read,splice_write',
    'splice_move,kernel_cache,max_write=4096,rw,debug,fsname=f,subtype=s,private',
  ])
  t.strictSame(parsed.unknown, [])
  t.strictSame(parsed.options.uidMapping, [
    { disk: 0, shown: 1000, length: 1 },
    { disk: 1, shown: 110000, length: 65536 },
  ])
  t.strictSame(parsed.options.gidMapping, [{ disk: 0, shown: 1000, length: 1 }])
  t.match(parsed.options, {
    squashToRoot: true,
    squashToUid: 5,
    squashToGid: 6,
    xattrPermissions: 2,
    timeout: 3,
    fsync: false,
    volatile: true,
    writeback: true,
    noxattrs: true,
    staticNlink: true,
    noacl: true,
    redirectDir: 'on',
    xino: 'on',
    ino32: true,
  })
  t.match(parsed, { allowOther: true, debug: true, fsname: 'f', subtype: 's', propagation: 'private' })
  t.strictSame([...parsed.flags].sort(), ['noatime', 'nodiratime'])
})

t.test('an unknown option is handed back as it was written', async t => {
  t.strictSame(parseOptions(['nonsense,frobnicate=3,ro']).unknown, ['nonsense', 'frobnicate=3'])
})

t.test('a wrong value is named in one line', async t => {
  for (const wrong of [
    'timeout=soon',
    'timeout=-1',
    'timeout=Infinity',
    'uidmapping=0:1',
    'uidmapping=0:1:0',
    'gidmapping=0:1:x',
    'uidmapping=4294967290:0:10',
    'squash_to_uid=4294967295',
    'squash_to_gid=-1',
    'redirect_dir=maybe',
    'xino=2',
    'patience=some',
    'io=fast',
    'whiteout=no',
    'fsync=2',
    'xattr_permissions=3',
    'upperdir',
    'verity=on',
  ]) {
    try {
      parseOptions([wrong])
      t.fail(`${wrong} was taken`)
    } catch (error) {
      t.ok(error instanceof OptionError, wrong)
      t.match((error as Error).message, wrong.split('=')[0] ?? '')
      t.notMatch((error as Error).message, /\n/)
    }
  }
})

t.test('relative paths are made absolute from the caller’s directory', async t => {
  const spec = mountSpec(
    parseOptions(['lowerdir=l/A:/b,upperdir=u,workdir=w']),
    'm',
    '/home/driver',
    LAMINA_DEFAULTS,
  )
  t.match(spec.overlay, {
    lower: ['/home/driver/l/A', '/b'],
    upper: '/home/driver/u',
    work: '/home/driver/w',
    mountpoint: '/home/driver/m',
  })
  t.equal(mountSpec(parseOptions(['lowerdir=l']), 'm', '/', LAMINA_DEFAULTS).overlay.mountpoint, '/m')
})

t.test('lower=live is refused with a keeper', async t => {
  const live = parseOptions(['lowerdir=/l,lower=live,keeper=1'])
  t.throws(
    () => mountSpec(live, '/m', '/', LAMINA_DEFAULTS),
    /^lower=live does not go with keeper=1: leave one out$/,
  )
})

t.test('without an upperdir the mount is read-only, whatever else was asked', async t => {
  t.ok(mountSpec(parseOptions(['lowerdir=/l,rw']), '/m', '/', LAMINA_DEFAULTS).flags.includes('ro'))
  const writable = mountSpec(parseOptions(['lowerdir=/l,upperdir=/u,workdir=/w']), '/m', '/', LAMINA_DEFAULTS)
  t.notOk(writable.flags.includes('ro'))
})

t.test('defaults hold unless an option names their opposite', async t => {
  t.strictSame(mountSpec(parseOptions(['lowerdir=/l']), '/m', '/', DROP_IN_DEFAULTS).flags.sort(), [
    'noatime',
    'nodev',
    'ro',
  ])
  t.strictSame(mountSpec(parseOptions(['lowerdir=/l,dev,atime']), '/m', '/', DROP_IN_DEFAULTS).flags, ['ro'])
})

t.test('what is no mount is refused', async t => {
  t.throws(() => mountSpec(parseOptions([]), '/m', '/', LAMINA_DEFAULTS), /no lowerdir/)
  t.throws(() => mountSpec(parseOptions(['lowerdir=/l,upperdir=/u']), '/m', '/', LAMINA_DEFAULTS), /workdir/)
  t.throws(() => mountSpec(parseOptions(['lowerdir=/l']), '', '/', LAMINA_DEFAULTS), /empty path/)
})

t.test('a spec survives its way to the daemon', async t => {
  const spec = mountSpec(
    parseOptions(['lowerdir=/\xff\xfe:/\\:x,upperdir=/u,workdir=/w']),
    '/m',
    '/',
    LAMINA_DEFAULTS,
  )
  t.equal(spec.overlay.options.timeout, Infinity)
  t.strictSame(decodeSpec(encodeSpec(spec)), spec)
})
