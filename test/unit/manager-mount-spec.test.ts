import { t } from 'tap'
import {
  parseMountFlag,
  parseTmpfsFlag,
  parseVolumeFlag,
  type MountSpec,
} from '../../src/manager/mounts/mount-spec.js'

const volume = { type: 'volume', readOnly: false, noCopy: false, options: {}, labels: {} } as const
const bind = {
  type: 'bind',
  readOnly: false,
  propagation: 'rprivate',
  recursive: true,
  createSource: false,
} as const
const tmpfs = { type: 'tmpfs', readOnly: false, options: [] } as const

const GOOD: readonly [flag: '-v' | '--mount' | '--tmpfs', text: string, spec: MountSpec][] = [
  ['-v', '/data', { ...volume, name: undefined, target: '/data' }],
  ['-v', 'db:/data', { ...volume, name: 'db', target: '/data' }],
  ['-v', 'db:/data/', { ...volume, name: 'db', target: '/data' }],
  ['-v', 'db:/a/../b//c', { ...volume, name: 'db', target: '/b/c' }],
  ['-v', 'db:/data:ro', { ...volume, name: 'db', target: '/data', readOnly: true }],
  ['-v', 'db:/data:nocopy,ro', { ...volume, name: 'db', target: '/data', readOnly: true, noCopy: true }],
  ['-v', '/srv:/data', { ...bind, source: '/srv', target: '/data', createSource: true }],
  ['-v', '/srv/:/data:rw', { ...bind, source: '/srv', target: '/data', createSource: true }],
  [
    '-v',
    '/srv:/data:ro,rshared',
    { ...bind, source: '/srv', target: '/data', readOnly: true, propagation: 'rshared', createSource: true },
  ],
  [
    '-v',
    '/srv:/data:bind',
    { ...bind, source: '/srv', target: '/data', recursive: false, createSource: true },
  ],
  ['-v', '/:/host', { ...bind, source: '/', target: '/host', createSource: true }],
  ['--mount', 'target=/data', { ...volume, name: undefined, target: '/data' }],
  ['--mount', 'type=volume,source=db,target=/data', { ...volume, name: 'db', target: '/data' }],
  ['--mount', 'type=volume,src=db,dst=/data,ro', { ...volume, name: 'db', target: '/data', readOnly: true }],
  ['--mount', 'src=db,destination=/data,readonly=false', { ...volume, name: 'db', target: '/data' }],
  [
    '--mount',
    'src=db,dst=/d,volume-subpath=a/b,volume-nocopy',
    { ...volume, name: 'db', target: '/d', subpath: 'a/b', noCopy: true },
  ],
  [
    '--mount',
    'type=volume,dst=/d,volume-opt=type=tmpfs,volume-opt=device=tmpfs,"volume-opt=o=size=1m,mode=0700"',
    {
      ...volume,
      name: undefined,
      target: '/d',
      options: { type: 'tmpfs', device: 'tmpfs', o: 'size=1m,mode=0700' },
    },
  ],
  [
    '--mount',
    'src=db,dst=/d,volume-label=a=b=c',
    { ...volume, name: 'db', target: '/d', labels: { a: 'b=c' } },
  ],
  ['--mount', 'type=bind,source=/srv,target=/d', { ...bind, source: '/srv', target: '/d' }],
  [
    '--mount',
    'type=bind,source=/srv,target=/d,bind-propagation=rslave,readonly',
    { ...bind, source: '/srv', target: '/d', propagation: 'rslave', readOnly: true },
  ],
  [
    '--mount',
    'type=bind,src=/s,dst=/d,bind-nonrecursive',
    { ...bind, source: '/s', target: '/d', recursive: false },
  ],
  [
    '--mount',
    'type=bind,src=/s,dst=/d,bind-recursive=disabled',
    { ...bind, source: '/s', target: '/d', recursive: false },
  ],
  ['--mount', 'type=bind,"src=/a,b",dst=/d', { ...bind, source: '/a,b', target: '/d' }],
  [
    '--mount',
    'type=tmpfs,dst=/t,tmpfs-size=64m,tmpfs-mode=1770',
    { ...tmpfs, target: '/t', options: ['size=67108864', 'mode=1770'] },
  ],
  ['--tmpfs', '/t', { ...tmpfs, target: '/t' }],
  [
    '--tmpfs',
    '/t:rw,size=64m,mode=1777,uid=5,exec',
    { ...tmpfs, target: '/t', options: ['size=64m', 'mode=1777', 'uid=5', 'exec'] },
  ],
  ['--tmpfs', '/t:ro,size=50%', { ...tmpfs, target: '/t', readOnly: true, options: ['size=50%'] }],
]

const BAD: readonly [flag: '-v' | '--mount' | '--tmpfs', text: string, said: RegExp][] = [
  ['-v', '', /not understood/],
  ['-v', 'db:', /not understood/],
  ['-v', 'a:/b:ro:c', /not understood/],
  ['-v', 'relative', /not an absolute path/],
  ['-v', 'db:relative', /not an absolute path/],
  ['-v', './here:/data', /not a volume name/],
  ['-v', 'db:/', /cannot be '\/'/],
  ['-v', 'db:/a/..', /cannot be '\/'/],
  ['-v', 'db:/data:ro,rw', /said once/],
  ['-v', 'db:/data:rshared', /'rshared' is not an option here/],
  ['-v', '/srv:/data:nocopy', /'nocopy' is not an option here/],
  ['-v', '/srv:/data:rshared,rslave', /two propagations/],
  ['-v', '/srv:/data:Z', /SELinux/],
  ['--mount', 'type=bind,target=/d', /needs a 'source'/],
  ['--mount', 'type=bind,source=rel,target=/d', /not an absolute path/],
  ['--mount', 'type=volume,source=db', /'target' is missing/],
  ['--mount', 'type=npipe,target=/d', /type 'npipe'/],
  ['--mount', 'type=tmpfs,source=x,target=/d', /has no 'source'/],
  ['--mount', 'type=tmpfs,target=/d,volume-nocopy', /does not go with type=tmpfs/],
  ['--mount', 'type=bind,src=/s,dst=/d,tmpfs-size=1m', /does not go with type=bind/],
  ['--mount', 'type=bind,src=/s,dst=/d,bind-propagation=odd', /bind-propagation 'odd'/],
  ['--mount', 'src=db,dst=/d,volume-subpath=../up', /not a path inside/],
  ['--mount', 'src=db,dst=/d,volume-subpath=/abs', /not a path inside/],
  ['--mount', 'src=db,dst=/d,colour=red', /'colour' is not a key/],
  ['--mount', 'src=db,dst=/d,volume-driver=nfs', /volume driver 'nfs'/],
  ['--mount', 'src=db,dst=/d,ro=perhaps', /true or false/],
  ['--mount', 'src=db,dst=', /'dst' needs a value/],
  ['--mount', 'src="db,dst=/d', /a quote/],
  ['--mount', 'type=tmpfs,dst=/t,tmpfs-size=much', /not a size/],
  ['--mount', 'type=tmpfs,dst=/t,tmpfs-mode=rwx', /not octal/],
  ['--tmpfs', 'relative', /not an absolute path/],
  ['--tmpfs', '/t:colour=red', /'colour=red' is not an option here/],
  ['--tmpfs', '/t:size=', /not an option here/],
  ['--tmpfs', '/t:uid=root', /no number/],
]

const PARSERS = { '-v': parseVolumeFlag, '--mount': parseMountFlag, '--tmpfs': parseTmpfsFlag }

t.test('what Docker accepts means what it means there', t => {
  for (const [flag, text, spec] of GOOD) t.same(PARSERS[flag](text), spec, `${flag} ${text}`)
  t.end()
})

t.test('what Docker refuses is refused, with the word that is wrong', t => {
  for (const [flag, text, said] of BAD) {
    t.throws(() => PARSERS[flag](text), { code: 'invalid', message: said }, `${flag} ${text}`)
  }
  t.end()
})
