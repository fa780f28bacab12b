import { execFileSync } from 'node:child_process'
import t from 'tap'
import { bytesOf, decode } from '../../src/cli/argv.js'
import { fromUtf8 } from '../../src/base/bytes.js'

t.test('bytes survive the way through a string', async t => {
  for (const bytes of [
    'plain',
    '\xff',
    'a\xff\xfeb',
    fromUtf8('grün'),
    fromUtf8('😀') + '\x80',
    '\xed\xa0\x80',
    '\xc3',
  ]) {
    t.equal(bytesOf(decode(bytes)), bytes, JSON.stringify(bytes))
  }
  const all = Array.from({ length: 256 }, (_v, i) => String.fromCharCode(i)).join('')
  t.equal(bytesOf(decode(all)), all)
})

t.test('what is UTF-8 is an ordinary string', async t => {
  t.equal(decode(fromUtf8('grün 😀')), 'grün 😀')
  t.equal(decode('a\xff'), 'a\udcff')
})

t.test('arguments that are not UTF-8 are read from the kernel', async t => {
  const module = new URL('../../src/cli/argv.js', import.meta.url)
  const program = `import { bytesOf, commandLine } from '${module}'; console.log(JSON.stringify(commandLine().map(bytesOf)))`
  // Buffers are no arguments for child_process; the shell makes the bytes.
  const output = execFileSync(
    'bash',
    ['-c', `exec "$0" --input-type=module -e "$1" x $'a\\xff' plain '' grün`, process.execPath, program],
    { encoding: 'utf8' },
  )
  t.strictSame(JSON.parse(output), ['a\xff', 'plain', '', fromUtf8('grün')])
})
