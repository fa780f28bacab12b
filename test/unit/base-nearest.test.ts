import t from 'tap'
import { didYouMean, nearest, unknownKey } from '../../src/base/nearest.js'

t.test('the nearest word, when it is near', async t => {
  const known = ['nosuid', 'nodev', 'noexec', 'size', 'io', 'timeout']
  t.equal(nearest('nosiud', known), 'nosuid', 'two letters swapped')
  t.equal(nearest('siez', known), 'size')
  t.equal(nearest('TIMEOUT', known), 'timeout')
  t.equal(nearest('nodevs', known), 'nodev')
  t.equal(nearest('bogus', known), undefined)
  t.equal(nearest('x', known), undefined)
  t.equal(nearest('nosuid'.repeat(1000), known), undefined)
  t.equal(didYouMean('nodve', known), ' (did you mean nodev?)')
  t.equal(didYouMean('bogus', known), '')
})

t.test('a key that is none of an interface', async t => {
  t.equal(unknownKey({ size: 1, detached: undefined }, { size: true, detached: true }), undefined)
  t.equal(
    unknownKey({ detachd: true }, { size: true, detached: true }),
    'unknown option: detachd (did you mean detached?)',
  )
  t.equal(unknownKey({ toString: 1 }, { size: true }), 'unknown option: toString')
})
