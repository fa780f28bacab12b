import java.io.BufferedOutputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import org.apache.commons.compress.archivers.tar.TarArchiveEntry;
import org.apache.commons.compress.archivers.tar.TarArchiveOutputStream;

/** As Java's commons-compress writes headers: `Archive posix|gnu|star FILE`, to standard output (see archive.go, headers). */
public class Archive {
  public static void main(String[] args) throws Exception {
    OutputStream out = new BufferedOutputStream(System.out);
    for (String line : Files.readAllLines(Path.of(args[1]))) {
      String[] field = line.split(" ");
      byte[] name = HexFormat.of().parseHex(field[6]);
      TarArchiveEntry entry = new TarArchiveEntry(new String(name, StandardCharsets.UTF_8), true);
      entry.setMode(Integer.parseInt(field[0], 8));
      entry.setUserId(Long.parseLong(field[1]));
      entry.setGroupId(Long.parseLong(field[2]));
      entry.setSize(Long.parseLong(field[3]));
      long millis = Long.parseLong(field[4]) * 1000 + Long.parseLong(field[5]) / 1000000;
      entry.setModTime(millis);
      // A stream of its own: the data that the size speaks of does not follow, and an entry is not closed.
      TarArchiveOutputStream tar = new TarArchiveOutputStream(out, "UTF-8");
      boolean posix = args[0].equals("posix");
      tar.setBigNumberMode(posix ? TarArchiveOutputStream.BIGNUMBER_POSIX : TarArchiveOutputStream.BIGNUMBER_STAR);
      tar.setLongFileMode(posix ? TarArchiveOutputStream.LONGFILE_POSIX : TarArchiveOutputStream.LONGFILE_GNU);
      tar.setAddPaxHeadersForNonAsciiNames(posix);
      try {
        tar.putArchiveEntry(entry);
      } catch (IllegalArgumentException | java.io.IOException error) {
        System.err.println(line + ": " + error.getMessage());
      }
      out.flush();
    }
  }
}
