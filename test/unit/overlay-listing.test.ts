import t from 'tap'
import { DirInode } from '../../src/overlay/inode.js'
import { Listing } from '../../src/overlay/listing.js'
import { ListingCache } from '../../src/overlay/listing-cache.js'
import * as sys from '../../src/sys/index.js'

let nodeid = 1
const dir = (): DirInode => new DirInode(++nodeid, sys.S_IFDIR, nodeid)

/** As creating `names` in the directory does. */
function create(cache: ListingCache, parent: DirInode, ...names: string[]): void {
  for (const name of names) cache.created(parent, name, sys.S_IFREG, 1)
}

t.test('files that come and go leave no gaps where nobody reads', t => {
  const cache = new ListingCache(10_000)
  const parent = dir()
  cache.hold(parent, new Listing())
  create(cache, parent, 'stays')
  for (let i = 0; i < 5000; i++) {
    create(cache, parent, `t${i}`)
    parent.listing?.remove(`t${i}`)
  }
  t.equal(parent.listing?.size, 1)
  t.ok(parent.listing !== null && parent.listing.position('stays') !== undefined)
  t.ok((parent.listing?.names.length ?? 0) < 600, `${parent.listing?.names.length} positions`)
  t.end()
})

t.test('positions stay where somebody reads', t => {
  const cache = new ListingCache(10_000)
  const parent = dir()
  const listing = new Listing()
  listing.readAt = Date.now()
  cache.hold(parent, listing)
  for (let i = 0; i < 2000; i++) {
    create(cache, parent, `t${i}`)
    parent.listing?.remove(`t${i}`)
  }
  create(cache, parent, 'last')
  t.equal(parent.listing, listing)
  t.equal(listing.position('last'), 2000)
  t.end()
})

t.test('a long listing that nobody reads is not kept, and neither are many empty ones', t => {
  const cache = new ListingCache(100_000)
  const parent = dir()
  cache.hold(parent, new Listing())
  for (let i = 0; i < 20_000; i++) create(cache, parent, `f${i}`)
  t.equal(parent.listing, null)
  const small = new ListingCache(1000)
  const dirs = Array.from({ length: 500 }, dir)
  for (const each of dirs) small.hold(each, new Listing())
  const held = dirs.filter(each => each.listing !== null).length
  t.ok(held > 50 && held < 200, `${held} of 500`)
  t.ok(dirs.at(-1)?.listing, 'the last one is')
  t.end()
})
