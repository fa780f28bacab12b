import t from 'tap'
import { KeyedLock } from '../../src/base/keyed-lock.js'
import { Lru } from '../../src/base/lru.js'

const turn = () => new Promise<void>(resolve => setImmediate(resolve))

t.test('KeyedLock: one at a time per key, in the order of asking', async t => {
  const lock = new KeyedLock<string>()
  const seen: string[] = []
  const work = (name: string) => async () => {
    seen.push(`${name} starts`)
    await turn()
    seen.push(`${name} ends`)
    return name
  }
  const results = await Promise.all([
    lock.run('k', work('a')),
    lock.run('k', work('b')),
    lock.run('k', work('c')),
  ])
  t.same(results, ['a', 'b', 'c'])
  t.same(seen, ['a starts', 'a ends', 'b starts', 'b ends', 'c starts', 'c ends'])
  t.equal(lock.size, 0, 'nothing is kept')
})

t.test('KeyedLock: other keys do not wait, and a failure frees the key', async t => {
  const lock = new KeyedLock<number>()
  const held = await lock.acquire(1)
  t.equal(lock.isLocked(1), true)
  t.equal(await lock.run(2, () => 'other'), 'other')
  let free = false
  const waiting = lock.whenFree(1).then(() => (free = true))
  await turn()
  t.equal(free, false)
  held[Symbol.dispose]()
  await waiting
  await t.rejects(
    lock.run(1, () => Promise.reject(new Error('no'))),
    /no/,
  )
  t.equal(lock.isLocked(1), false)
  t.equal(await lock.run(1, () => 'again'), 'again')
})

t.test('Lru: the least recently used goes first, and the callback hears of it', async t => {
  const gone: [string, number][] = []
  const lru = new Lru<string, number>(2, (key, value) => gone.push([key, value]))
  lru.set('a', 1)
  lru.set('b', 2)
  t.equal(lru.get('a'), 1)
  t.equal(lru.peek('b'), 2)
  lru.set('c', 3)
  t.same(gone, [['b', 2]])
  t.same(
    [...lru.entries()],
    [
      ['a', 1],
      ['c', 3],
    ],
  )
  lru.set('a', 10)
  t.equal(lru.size, 2)
  lru.delete('c')
  t.same(gone, [['b', 2]], 'deleting and replacing is not eviction')
  lru.set('d', 4)
  lru.limit = 1
  t.same(gone, [
    ['b', 2],
    ['a', 10],
  ])
  lru.clear()
  t.same(gone.at(-1), ['d', 4])
  t.equal(lru.size, 0)
})

t.test('Lru: undefined is a value, and a limit of 0 keeps nothing', async t => {
  const lru = new Lru<string, undefined>(1)
  lru.set('a', undefined)
  t.equal(lru.has('a'), true)
  t.equal(lru.get('a'), undefined)
  t.equal(lru.size, 1)
  const none = new Lru<string, number>(0)
  none.set('a', 1)
  t.equal(none.size, 0)
  t.throws(() => new Lru(-1), RangeError)
})
