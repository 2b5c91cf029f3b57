package duck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/duckdb/duckdb-go/v2/mapping"

	"gbatch/pkg/exit"
)

// A checkpoint holds a database file before and after a checkpoint, and its
// journal.
type checkpoint struct{ before, after, journal []byte }

// checkpoints changes a database many times and returns the checkpoints.
func checkpoints(t testing.TB) (all []checkpoint) {
	k := open(t, "CREATE TABLE texts AS SELECT range AS id, repeat('text ' || range || ' ', 20) AS text, NULL::VARCHAR AS status FROM range(5000)",
		"CREATE SCHEMA s; CREATE TABLE s.batches (name VARCHAR, n BIGINT); CREATE TABLE s.items (seq BIGINT, id BIGINT, text VARCHAR)")
	for i := range 8 {
		at := checkpoint{before: contents(t, k.DB)}
		err := k.transact(Write, func(c *Conn) error {
			if i > 0 {
				at.journal = contents(t, k.DB+".journal")
			}
			for j := range 3 {
				part := fmt.Sprintf("id BETWEEN %[1]d AND %[1]d + 99", 300*i+100*j)
				err := c.Exec(fmt.Sprintf(`INSERT INTO s.batches VALUES ('b%d.%d', 100);
					INSERT INTO s.items SELECT id, id, text FROM texts WHERE %s; UPDATE texts SET status = 'PENDING' WHERE %[3]s`, i, j, part))
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(k.DB + ".journal"); err == nil {
			t.Fatal("the journal is still there")
		}
		at.after = contents(t, k.DB)
		if i > 0 {
			all = append(all, at)
		}
	}
	return all
}

// blocks returns the offsets of the journal's blocks in the database.
func (c checkpoint) blocks(t testing.TB) (at []int) {
	h, blocks, err := parseJournal(c.journal)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		at = append(at, int(b.offset(h.State)))
	}
	return at
}

const blockSize = 256 << 10

// unfinished returns the file before DuckDB writes the head. Of the 4 KB pages
// that the checkpoint changes, only those for which reached is true are on disk.
func (c checkpoint) unfinished(reached func(at int) bool) []byte {
	b := bytes.Clone(c.before)
	if n := len(c.after) - len(b); n > 0 {
		b = append(b, make([]byte, n)...)
	}
	for at := headSize; at+4096 <= len(c.after); at += 4096 {
		if reached(at) {
			copy(b[at:at+4096], c.after[at:])
		}
	}
	return b
}

// torn returns an unfinished file in which one block was written up to n bytes,
// and all others completely.
func (c checkpoint) torn(block, n int) []byte {
	return c.unfinished(func(at int) bool { return at < block+n || at >= block+blockSize })
}

func (k *kb) everything() string {
	var all strings.Builder
	for _, table := range []string{"texts", "s.batches", "s.items"} {
		all.WriteString(strings.Join(k.rows("SELECT concat_ws('|', *COLUMNS(*)) FROM "+table+" ORDER BY ALL"), "\n") + "\n")
	}
	return all.String()
}

// file makes a database of the given bytes, with a journal.
func file(t testing.TB, db, journal []byte) *kb {
	k := &kb{t, Database{DB: filepath.Join(t.TempDir(), "kb.duckdb"), LockTimeout: 10 * time.Millisecond}}
	for path, b := range map[string][]byte{k.DB: db, k.DB + ".journal": journal} {
		if len(b) == 0 {
			continue
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func look(*Conn) error { return nil }

// gone fails the test if the journal of the file exists.
func (k *kb) gone() {
	k.Helper()
	if _, err := os.Lstat(k.DB + ".journal"); err == nil {
		k.Error("the journal is still there")
	}
}

// If a checkpoint is interrupted at any place, the database keeps its content.
// The next process that writes changes 8 bytes of each torn block, and nothing
// else. A process that reads changes nothing.
func TestCheckpointCutShort(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	files, refused, mended := 0, 0, 0
	for _, c := range checkpoints(t) {
		want := file(t, c.before, nil).everything()
		var cuts [][]byte
		for _, at := range c.blocks(t) {
			if !bytes.Equal(c.before[at:at+blockSize], c.after[at:at+blockSize]) {
				cuts = append(cuts, c.torn(at, 4096), c.torn(at, blockSize/2), c.torn(at, blockSize-4096))
			}
		}
		// After a power failure any of the pages may be on disk.
		for range 6 {
			cuts = append(cuts, c.unfinished(func(int) bool { return random.IntN(2) == 0 }))
		}
		for _, db := range cuts {
			files++
			k := file(t, db, c.journal)
			err := k.transact(Read, look)
			if !bytes.Equal(contents(t, k.DB), db) || !bytes.Equal(contents(t, k.DB+".journal"), c.journal) {
				t.Error("a reader changed the file or the journal")
			}
			if torn := errors.Is(err, ErrUnfinished); torn {
				refused++
			} else if err != nil {
				t.Error(err)
			}
			if err := k.transact(Write, func(c *Conn) error {
				_, torn, err := examineAll(c, db)
				for at, sum := range torn {
					mended++
					binary.LittleEndian.PutUint64(db[at:], sum)
				}
				return err
			}); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(contents(t, k.DB), db) {
				t.Error("a writer changed more than the checksums")
			}
			k.gone()
			if got := k.everything(); got != want {
				t.Error("the database is not what it was")
			}
		}
	}
	t.Logf("%d unfinished checkpoints, %d of them with torn blocks; %d blocks repaired", files, refused, mended)
	if refused < files/2 {
		t.Errorf("of %d files only %d were torn", files, refused)
	}
}

// examineAll examines the metadata of the database db. c has a repaired copy of
// it open.
func examineAll(c *Conn, db []byte) (pieces [32]byte, torn map[int64]uint64, err error) {
	s, err := stateOf(bytes.NewReader(db))
	if err != nil {
		return pieces, nil, err
	}
	blocks, err := metadata(c)
	if err != nil {
		return pieces, nil, err
	}
	return examine(bytes.NewReader(db), s, blocks)
}

// DuckDB's own error for a torn file is recognised, and no other error is taken
// for it.
func TestTornWithoutJournal(t *testing.T) {
	refused := 0
	for _, c := range checkpoints(t) {
		for _, at := range c.blocks(t) {
			k := file(t, c.torn(at, 4096), nil)
			if err := k.transact(Write, func(c *Conn) error { return c.Exec("SELECT count(text) FROM texts") }); errors.Is(err, errCorrupt) {
				refused++
			} else if err != nil {
				t.Error(err)
			}
		}
	}
	if refused == 0 {
		t.Error("DuckDB refused no torn file")
	}
}

// A journal that was not written to its end, or whose checkpoint was finished,
// changes nothing in the database. The next writer deletes it.
func TestJournalOfNoUse(t *testing.T) {
	all := checkpoints(t)
	c, last := all[0], all[len(all)-1]
	bad := bytes.Clone(c.journal)
	bad[len(bad)/2]++
	for name, test := range map[string]struct{ db, journal []byte }{
		"nothing was written": {c.before, c.journal},
		"finished":            {c.after, c.journal},
		"finished long ago":   {last.after, c.journal},
		"cut":                 {c.before, c.journal[:len(c.journal)/2]},
		"bad":                 {c.before, bad},
		"short":               {c.before, []byte("g")},
	} {
		k := file(t, test.db, test.journal)
		k.must(Read, "SELECT count(text) FROM texts")
		if got := contents(t, k.DB+".journal"); !bytes.Equal(got, test.journal) {
			t.Errorf("%s: a reader changed the journal", name)
		}
		k.must(Write, "SELECT 1")
		if got := contents(t, k.DB); !bytes.Equal(got, test.db) {
			t.Errorf("%s: the database was changed", name)
		}
		k.gone()
	}
	k := file(t, c.before, nil)
	if err := os.WriteFile(k.DB+".journal", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k.must(Write, "SELECT 1")
	k.gone()
}

// A file that is not a journal, or is the journal of another database, is never
// used and never deleted. The database can be used, but not repaired.
func TestJournalOfAnotherDatabase(t *testing.T) {
	all := checkpoints(t)
	c := all[0]
	torn := c.torn(c.blocks(t)[0], 4096)
	// The twin has the same head, because its checkpoints had the same shape, but
	// other metadata.
	h, blocks, err := parseJournal(c.journal)
	if err != nil {
		t.Fatal(err)
	}
	h.Pieces[0]++
	twin := h.encode(blocks)
	h.Pieces[0]--
	h.State.Iteration++
	h.State.Head[0]++
	later := h.encode(blocks)
	h.State.Iteration--
	h.State.ID[0]++
	other := h.encode(blocks)
	for name, test := range map[string]struct {
		journal       []byte
		torn, withWAL string // the errors; "" means no error
	}{
		"a diary":         {journal: []byte("dear diary"), torn: "Corrupt database file"},
		"a newer journal": {journal: []byte("gbatch journal 3, of which nothing is known here"), torn: "Corrupt database file"},
		"a twin's":        {journal: twin, torn: "restore a backup", withWAL: "to another copy of this one"},
		"a later state's": {journal: later, torn: "Corrupt database file", withWAL: "to another copy of this one"},
		"another's":       {journal: other, torn: "Corrupt database file", withWAL: "to another copy of this one"},
	} {
		expect := func(what string, db []byte, wal bool, want string) {
			t.Helper()
			for _, mode := range []Access{Read, Write} {
				k := file(t, db, test.journal)
				if wal {
					if err := os.WriteFile(k.DB+".wal", nil, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				err := k.transact(mode, func(c *Conn) error { return c.Exec("SELECT count(text) FROM texts") })
				if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
					t.Errorf("%s beside %s, mode %d: %v", name, what, mode, err)
				}
				if !bytes.Equal(contents(t, k.DB), db) || !bytes.Equal(contents(t, k.DB+".journal"), test.journal) {
					t.Errorf("%s beside %s, mode %d: something was written", name, what, mode)
				}
			}
		}
		expect("a torn file", torn, false, test.torn)
		expect("a good file", c.before, false, "")
		expect("a good file with a WAL", c.before, true, test.withWAL)
	}
	// A link or a folder with the journal's name is not changed either.
	for name, make := range map[string]func(path string) error{
		"a link":   func(path string) error { return os.Symlink("/dev/null", path) },
		"a folder": func(path string) error { return os.Mkdir(path, 0o700) },
		"a pipe":   func(path string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		k := file(t, c.before, nil)
		if err := make(k.DB + ".journal"); err != nil {
			t.Fatal(err)
		}
		k.must(Write, "INSERT INTO texts VALUES (-1, 'new', NULL)")
		k.expect("SELECT text FROM texts WHERE id = -1", "new")
		if _, err := os.Lstat(k.DB + ".journal"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A file is not repaired if pieces in use have changed.
func TestJournalOfDamagedFile(t *testing.T) {
	c := checkpoints(t)[0]
	at := c.blocks(t)[0]
	h, blocks, err := parseJournal(c.journal)
	if err != nil {
		t.Fatal(err)
	}
	used := 0
	for blocks[0].Free>>used&1 == 1 {
		used++
	}
	damage := c.torn(at, 4096)
	damage[at+8+used*4088]++
	for name, db := range map[string][]byte{
		"a piece in use changed": damage,
		"cut off":                c.before[:at+blockSize/2],
	} {
		for _, mode := range []Access{Read, Write} {
			k := file(t, db, c.journal)
			if err := k.transact(mode, look); err == nil || !strings.Contains(err.Error(), "restore a backup") {
				t.Errorf("%s, mode %d: %v", name, mode, err)
			}
			if !bytes.Equal(contents(t, k.DB), db) || !bytes.Equal(contents(t, k.DB+".journal"), c.journal) {
				t.Errorf("%s, mode %d: something was written", name, mode)
			}
		}
	}
	if h.State.BlockSize != blockSize {
		t.Errorf("blocks of %d bytes", h.State.BlockSize)
	}
}

// With an unknown version of DuckDB or of the storage, no journal is written and
// none is used.
func TestJournalOfUnknownVersion(t *testing.T) {
	c := checkpoints(t)[0]
	libraries, storage := journalLibraries, journalStorage
	defer func() { journalLibraries, journalStorage = libraries, storage }()
	unknown := func(what string) {
		k := file(t, c.before, nil)
		err := k.transact(Write, func(*Conn) error {
			k.gone()
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		db := c.torn(c.blocks(t)[0], 4096)
		k = file(t, db, c.journal)
		if err := k.transact(Write, look); !errors.Is(err, errCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
		if !bytes.Equal(contents(t, k.DB), db) || !bytes.Equal(contents(t, k.DB+".journal"), c.journal) {
			t.Errorf("%s: something was written", what)
		}
	}
	journalLibraries = []string{"v1.4.0"}
	unknown("library")
	journalLibraries = libraries
	journalStorage.first = 65
	unknown("storage version")
	journalStorage = storage
	if v := mapping.LibraryVersion(); v != Version || !slices.Contains(journalLibraries, v) {
		t.Errorf("the library is %s: try whether the journal is right for it", v)
	}
}

// Files of every storage version and block size are repaired.
func TestJournalOfEachFormat(t *testing.T) {
	for _, option := range []string{"", "STORAGE_VERSION 'v1.2.0'", "STORAGE_VERSION 'v1.3.0'", "STORAGE_VERSION 'v1.4.0'", "STORAGE_VERSION 'v1.5.0'", "BLOCK_SIZE 16384"} {
		k := &kb{t, Database{DB: filepath.Join(t.TempDir(), "kb.duckdb")}}
		other := open(t)
		with := ""
		if option != "" {
			with = " (" + option + ")"
		}
		err := other.transact(Create, func(c *Conn) error {
			return c.Exec("COMMIT; ATTACH " + Literal(k.DB) + " AS new" + with + "; CREATE TABLE new.t AS SELECT range AS i FROM range(3000); DETACH new; BEGIN")
		})
		if err != nil {
			t.Fatal(err)
		}
		var c checkpoint
		for range 2 {
			c.before = contents(t, k.DB)
			err := k.transact(Write, func(conn *Conn) error {
				c.journal = contents(t, k.DB+".journal")
				return conn.Exec("INSERT INTO t VALUES (-1)")
			})
			if err != nil {
				t.Fatal(err)
			}
			c.after = contents(t, k.DB)
		}
		h, _, err := parseJournal(c.journal)
		if err != nil {
			t.Fatal(err)
		}
		torn := 0
		for _, at := range c.blocks(t) {
			end := at + int(h.State.BlockSize)
			if bytes.Equal(c.before[at:end], c.after[at:end]) {
				continue
			}
			torn++
			k := file(t, c.unfinished(func(page int) bool { return page < at+4096 || page >= end }), c.journal)
			k.must(Write, "SELECT 1")
			k.gone()
			k.expect("SELECT count(*)::VARCHAR FROM t", "3001")
		}
		if torn == 0 {
			t.Errorf("%q: no block was torn", option)
		}
	}
}

// A block far into a large file is found. The file has a hole of 5 GB before the
// block.
func TestJournalOfLargeFile(t *testing.T) {
	const id = 20000 // at 5.2 GB
	s := state{BlockSize: blockSize}
	block := make([]byte, blockSize)
	rand.NewChaCha8([32]byte{}).Read(block)
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	blocks := []metaBlock{{ID: id, Free: 1 << 63}}
	at := blocks[0].offset(s)
	if at != headSize+id*blockSize || at < 1<<32 {
		t.Fatalf("offset %d", at)
	}
	if _, err := f.WriteAt(block, at); err != nil {
		t.Fatal(err)
	}
	_, torn, err := examine(f, s, blocks)
	if err != nil || len(torn) != 1 || torn[at] != checksum(block) {
		t.Errorf("%v, %v", torn, err)
	}
}

// A transaction makes at most one checkpoint, even if DuckDB makes it before the
// file is closed: a journal is right for one checkpoint.
func TestOneCheckpoint(t *testing.T) {
	k := open(t, "CREATE TABLE t AS SELECT 1 AS i")
	iteration := func() uint64 {
		s, err := stateOf(bytes.NewReader(contents(t, k.DB)))
		if err != nil {
			t.Fatal(err)
		}
		return s.Iteration
	}
	for sql, want := range map[string]uint64{
		"INSERT INTO t VALUES (2)":                            1,
		"INSERT INTO t SELECT random() FROM range(3_000_000)": 1,
		"UPDATE t SET i = i + 1":                              1,
		"SELECT 1":                                            0,
	} {
		before := iteration()
		k.must(Write, sql)
		if got := iteration() - before; got != want {
			t.Errorf("%s: %d checkpoints instead of %d", sql, got, want)
		}
	}
}

// Whatever bytes a journal has, nothing is written unless all of it matches.
func FuzzJournal(f *testing.F) {
	c := checkpoints(f)[0]
	db := c.torn(c.blocks(f)[0], 4096)
	h, blocks, _ := parseJournal(c.journal)
	for _, seed := range [][]byte{c.journal, c.journal[:40], {}, []byte("gbatch journal 2")} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, sum bool) {
		if sum { // otherwise hardly any input would have a valid CRC
			b = binary.LittleEndian.AppendUint32(b, crc(b))
		}
		v, torn, err := judge(b, bytes.NewReader(db))
		if err != nil {
			t.Fatal(err)
		}
		got, same, _ := parseJournal(b)
		if v != mendable {
			if len(torn) > 0 {
				t.Errorf("verdict %d with %d blocks to write", v, len(torn))
			}
		} else if got.State != h.State || len(same) == 0 {
			t.Error("a journal of another state is used")
		} else if pieces, _, err := examine(bytes.NewReader(db), h.State, same); err != nil || pieces != got.Pieces {
			t.Error("a journal is used that does not fit")
		} else if len(same) > len(blocks) {
			t.Error("more blocks than there are")
		}
	})
}

// hold is what the other process of held runs.
func hold(t *testing.T) bool {
	path := os.Getenv("GBATCH_TEST_HOLD")
	if path == "" {
		return false
	}
	d := Database{DB: path}
	err := d.Transact(t.Context(), Write, "", func(*Conn) error {
		os.Stdout.WriteString("held\n")
		os.Stdin.Read(make([]byte, 1))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return true
}

// held starts another process, which runs the same test and opens the database.
// kill kills that process.
func (k *kb) held() (kill func()) {
	other := exec.Command(os.Args[0], "-test.run=^"+k.Name()+"$")
	other.Env = append(os.Environ(), "GBATCH_TEST_HOLD="+k.DB)
	in, err := other.StdinPipe()
	if err != nil {
		k.Fatal(err)
	}
	out, err := other.StdoutPipe()
	if err != nil {
		k.Fatal(err)
	}
	if err := other.Start(); err != nil {
		k.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		other.Process.Kill()
		other.Wait()
	})
	k.Cleanup(func() { in.Close(); kill() })
	if b := make([]byte, 5); true {
		if _, err := out.Read(b); err != nil || string(b) != "held\n" {
			k.Fatalf("%q %v", b, err)
		}
	}
	return kill
}

// The journal of a running process is not deleted.
func TestJournalOfAnother(t *testing.T) {
	if hold(t) {
		return
	}
	all := checkpoints(t)
	k := file(t, all[len(all)-1].after, nil)
	kill := k.held()
	if err := k.transact(Read, look); exit.Code(err) != exit.TryLater {
		t.Errorf("a held database: %v", err)
	}
	if _, err := os.Stat(k.DB + ".journal"); err != nil {
		t.Errorf("the journal of the other process was deleted: %v", err)
	}
	kill()
	k.must(Write, "SELECT 1")
	k.gone()
}

// Readers can use a database in a folder without write permission, even if there
// is a journal.
func TestJournalThatStays(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write to every folder")
	}
	k := open(t, "CREATE TABLE t AS SELECT 'x' AS s")
	db := contents(t, k.DB)
	k = file(t, db, journalMagic[:])
	folder := filepath.Dir(k.DB)
	if err := os.Chmod(folder, 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(folder, 0o700)
	k.expect("SELECT s FROM t", "x")
}
