import { t } from 'tap'
import { Bench } from './fixture.js'

const words: [args: string[], said: RegExp][] = [
  [['volum', 'ls'], /did you mean volume\?/i],
  [['volume', 'crate', 'x'], /did you mean create\?/i],
  [['volume', 'ls', '--filtr', 'name=x'], /did you mean --filter\?/i],
  [
    ['volume', 'ls', '--filter', 'lable=x'],
    /^lamina: --filter lable=x is not understood \(did you mean label\?\)/,
  ],
  [
    ['volume', 'create', '-o', 'siez=1m', 'x'],
    /^lamina: 'siez' is not an option of a volume \(did you mean size\?\)/,
  ],
  [
    ['mount', '-o', 'lowerdir=/,nosiud', '/nowhere'],
    /^lamina: unknown option: nosiud \(did you mean nosuid\?\)\n$/,
  ],
  [
    ['container', 'create', '--mount', 'type=bind,surce=/x,target=/y', '--', 'none'],
    /'surce' is not a key \(did you mean source\?\)/,
  ],
  [
    ['container', 'create', '--mount', 'type=bnd,target=/y', '--', 'none'],
    /type 'bnd' \(did you mean bind\?\)/,
  ],
  [
    ['container', 'create', '-v', 'data:/y:nocpy', '--', 'none'],
    /'nocpy' is not an option here \(did you mean nocopy\?\)/,
  ],
  [
    ['container', 'create', '--tmpfs', '/y:nosiud', '--', 'none'],
    /'nosiud' is not an option here \(did you mean nosuid\?\)/,
  ],
  [
    ['container', 'create', '--storage-driver', 'btrsf'],
    /no such storage driver: btrsf \(did you mean btrfs\?\)/,
  ],
]
for (const [args, said] of words) {
  t.test(`lamina ${args.join(' ')}`, async t => {
    const bench = new Bench(t)
    const { status, stderr } = bench.lamina(...args)
    t.not(status, 0)
    t.match(stderr, said)
  })
}
