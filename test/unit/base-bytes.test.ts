import t from 'tap'
import { fromBuffer, fromUtf8, toBuffer, toUtf8 } from '../../src/base/bytes.js'

t.test('every byte survives the way to a Buffer and back', async t => {
  const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i))
  t.same(toBuffer(fromBuffer(all)), all)
  t.equal(fromBuffer(all).length, 256)
  t.equal(fromBuffer(all.subarray(65, 67)), 'AB', 'a view gives only its own bytes')
})

t.test('text becomes bytes and text again', async t => {
  for (const text of ['', 'plain', 'gr\u00fc\u00dfe', '\u65e5\u672c\u8a9e', '\u{1f600}', '\ufffd']) {
    t.equal(toUtf8(fromUtf8(text)), text)
    t.same(toBuffer(fromUtf8(text)), Buffer.from(text))
  }
})

t.test('bytes that are no UTF-8 are shown as \\xNN', async t => {
  t.equal(toUtf8('\xff\xfe'), '\\xff\\xfe')
  t.equal(toUtf8('a\xc3'), 'a\\xc3', 'cut off')
  t.equal(toUtf8('\xc0\xaf'), '\\xc0\\xaf', 'overlong')
  t.equal(toUtf8('\xe0\x80\xaf'), '\\xe0\\x80\\xaf', 'overlong, three bytes')
  t.equal(toUtf8('\xed\xa0\x80'), '\\xed\\xa0\\x80', 'a surrogate')
  t.equal(toUtf8('\xf4\x90\x80\x80'), '\\xf4\\x90\\x80\\x80', 'above U+10FFFF')
  t.equal(toUtf8('\xc3\xa9\xff\xe2\x82\xac'), '\u00e9\\xff\u20ac', 'mixed with what is')
})
