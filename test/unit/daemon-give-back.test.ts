import t from 'tap'
import { givingBack } from '../../src/daemon/give-back.js'

t.test('memory is collected once, some time after many inodes have gone, and not after few', async t => {
  let collected = 0
  let inodes = 0
  const forgotten = givingBack(
    () => inodes,
    () => void collected++,
  )
  const forget = (count: number): void => {
    for (let i = 0; i < count; i++) {
      inodes--
      forgotten()
    }
  }
  const wait = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))

  inodes = 9000
  forget(9000)
  await wait(2100)
  t.equal(collected, 0, 'a few')
  inodes = 50_000
  forget(50_000)
  t.equal(collected, 0, 'not while it goes on')
  await wait(3500)
  const once = collected
  t.ok(once > 0)
  await wait(2100)
  t.equal(collected, once, 'not again')
})
