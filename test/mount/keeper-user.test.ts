import fs from 'node:fs'
import t from 'tap'
import { runAsNobody, Scratch, unavailable } from './fixture.js'

/** An ordinary user's daemon is replaced, too: nothing that a keeper does needs privilege. */

const skip = unavailable('lamina') ?? (fs.existsSync('/usr/bin/fusermount3') ? false : 'no fusermount3')

t.test("an ordinary user's daemon is killed, and nobody notices", { skip }, async t => {
  using scratch = new Scratch('keeper-user')
  const done = runAsNobody(
    scratch,
    `
      mkdir lower upper work mnt run
      pid() { "$node" "$lamina" stats --format json mnt | "$node" -p "JSON.parse(fs.readFileSync(0)).pid"; }
      echo below > lower/a; seq 20000 > lower/big
      "$node" "$lamina" mount --lower lower --upper upper --work work -o keeper=1 mnt
      exec 3> mnt/held 4< mnt/big
      echo 0 >&3; head -n 1 <&4 > /dev/null; rm mnt/held mnt/big
      for round in 1 2 3; do
        dead=$(pid)
        kill -KILL $dead
        echo $round >&3; echo $round > mnt/f$round; cat mnt/a
        test $dead != $(pid)
      done
      ls mnt
      cat /proc/self/fd/3; cksum <&4
      "$node" "$lamina" daemon restart mnt
      cat mnt/f?
      exec 3>&- 4<&-
      "$node" "$lamina" umount mnt
      ! grep " $PWD/mnt " /proc/mounts
      ls run
    `,
  )
  t.equal(done.stderr, '')
  t.equal(done.status, 0)
  t.match(
    done.stdout,
    /^below\nbelow\nbelow\na\nf1\nf2\nf3\n0\n1\n2\n3\n\d+ \d+\nmnt: pid \d+ -> \d+\n1\n2\n3\n$/,
  )
  t.strictSame(fs.readdirSync(scratch.path('upper')).filter(name => /^f\d$/.test(name)).length, 3)
})
