import t from 'tap'
import { fromUtf8 } from '../../src/base/bytes.js'
import { humanSize, jsonName, printable, table } from '../../src/cli/output.js'

t.test('a name is one printable line', async t => {
  t.equal(printable('plain.txt'), 'plain.txt')
  t.equal(printable(fromUtf8('grün')), 'grün')
  t.equal(printable('a\nb\tc\rd'), 'a\\nb\\tc\\rd')
  t.equal(printable('\x1b[2J'), '\\x1b[2J')
  t.equal(printable('\xff\xfe'), '\\xff\\xfe')
  t.equal(printable(fromUtf8('\u009b31m')), '\\x9b31m')
  t.equal(printable('a\\nb'), 'a\\\\nb')
})

t.test('JSON keeps every byte of a name', async t => {
  t.strictSame(jsonName('path', fromUtf8('grün\n')), { path: 'grün\n' })
  t.strictSame(jsonName('path', 'a\xff'), {
    path: 'a\\xff',
    pathBase64: Buffer.from('a\xff', 'latin1').toString('base64'),
  })
})

t.test('columns line up, numbers to the right, wide characters count twice', async t => {
  t.equal(
    table(
      ['NAME', 'PID'],
      [
        ['a', 1],
        ['漢字', 123],
      ],
    ),
    ['NAME  PID', 'a       1', '漢字  123'].join('\n'),
  )
  t.equal(table(['NAME', 'X'], []), 'NAME  X')
})

t.test('sizes are decimal, as Docker prints them', async t => {
  t.equal(humanSize(0), '0 B')
  t.equal(humanSize(999), '999 B')
  t.equal(humanSize(12_345_678), '12.3 MB')
  t.equal(humanSize(5e15), '5.00 PB')
})
