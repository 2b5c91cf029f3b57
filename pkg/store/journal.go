package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"gbatch/pkg/exit"
	"gbatch/pkg/lockfile"
)

// A journal keeps the blocks that a checkpoint may write over.
//
// DuckDB never writes over data, and a checkpoint counts once the file's head
// points to it. But blocks of its metadata have many pieces, of which the file
// as it stands may use some while a checkpoint fills others, and are then
// written over as a whole, with a new checksum. Such a write of 256 KB is cut
// short by kill -9 or a power failure, and DuckDB refuses the file from then
// on: "Corrupt database file: computed checksum … does not match stored
// checksum".
//
// So before anything is written these blocks, a handful, are copied to a file
// beside the database, together with its head. Who opens the database next
// finds the copy where a process was killed. If the head is the same still,
// none of the new pieces is in use, and a block whose checksum is wrong is put
// back. With another head the checkpoint was finished, and the copy is of no
// use.
//
// A nil journal does nothing.
type journal struct {
	path string
	db   *os.File
}

// The head of a file is its main header and two database headers, 4 KB each, of
// which DuckDB writes one in turn. Blocks follow, counted from 0.
// Source: duckdb.org/docs/current/internals/storage.
const head = 3 * 4096

// journalMagic begins a journal. The head, the blocks, each after its offset
// and length, and a CRC of all before follow.
const journalMagic = "gbatch journal 1"

// errLocked is the error of a database that another process has open.
var errLocked = errors.New("the file is locked")

// errKept is the error of a journal that is of no use any more and stays all
// the same, such as in a folder that may not be written to.
var errKept = errors.New("the journal cannot be taken away")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openJournal puts back what a killed process left behind. It is to be called
// before the database is opened, and the journal closed after the database was:
// the locks that DuckDB holds are the process's own, and closing any of its
// descriptors of the file gives them up.
func openJournal(path string, mode access) (*journal, error) {
	j := &journal{path: path + ".journal"}
	if _, err := os.Lstat(j.path); mode == read && errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var err error
	j.db, err = os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist) && mode == create:
		os.Remove(j.path) // of a database that is gone
		return nil, nil
	case err != nil && mode == read:
		return nil, nil // DuckDB will say what is wrong, if anything is
	case err != nil:
		return nil, err
	}
	err = j.settle()
	if err == nil && mode != read {
		return j, nil
	}
	j.db.Close()
	if mode == read && (errors.Is(err, errLocked) || errors.Is(err, errKept)) {
		err = nil // a reader does not mind another, nor a journal that has done its work
	}
	return nil, err
}

// settle takes the journal away, after putting the blocks back if a checkpoint
// that began with it was not finished.
func (j *journal) settle() error {
	if _, err := os.Lstat(j.path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// DuckDB's own lock: nobody else can have the file open then.
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart}
	if err := syscall.FcntlFlock(j.db.Fd(), syscall.F_SETLK, &lock); errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
		return errLocked
	} else if err != nil {
		return err
	}
	f, err := os.OpenFile(j.path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // somebody was faster
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if err := j.restore(b); err != nil {
		return err
	}
	if err := os.Remove(j.path); err != nil {
		return fmt.Errorf("%w: %w", errKept, err)
	}
	return nil
}

// restore writes the torn blocks of a journal back, if it is whole and the
// database's head is the one in it.
func (j *journal) restore(b []byte) error {
	end := len(b) - crc32.Size
	if end < len(journalMagic)+head || string(b[:len(journalMagic)]) != journalMagic || crc32.Checksum(b[:end], castagnoli) != binary.LittleEndian.Uint32(b[end:]) {
		return nil // the process was killed before it began to write
	}
	now := make([]byte, head)
	if _, err := j.db.ReadAt(now, 0); err != nil {
		return err
	}
	b = b[len(journalMagic):end]
	if !bytes.Equal(now, b[:head]) {
		return nil
	}
	torn := false
	for b = b[head:]; len(b) > 0; {
		at, n := int64(binary.LittleEndian.Uint64(b)), int(binary.LittleEndian.Uint64(b[8:]))
		old := b[16 : 16+n]
		b = b[16+n:]
		now = append(now[:0], old...)
		if _, err := j.db.ReadAt(now, at); err != nil {
			return err
		}
		// Another file may have the same head, where this one was replaced: its
		// blocks are whole.
		if checksum(now) == binary.LittleEndian.Uint64(now) {
			continue
		}
		torn = true
		if _, err := j.db.WriteAt(old, at); err != nil {
			return err
		}
	}
	if !torn {
		return nil
	}
	slog.Info("took back a checkpoint that was not finished", "db", j.db.Name())
	return j.db.Sync()
}

// checksum is what DuckDB writes into the first 8 bytes of a block.
// Source: DuckDB, src/common/checksum.cpp.
func checksum(block []byte) uint64 {
	sum := uint64(5381)
	for b := block[8:]; len(b) >= 8; b = b[8:] {
		sum ^= binary.LittleEndian.Uint64(b) * 0xbf58476d1ce4e5b9
	}
	return sum
}

// protect writes the journal, for a database that was just opened on c.
func (j *journal) protect(c *conn) error {
	if j == nil {
		return nil
	}
	r, err := c.query("SELECT block_id, (SELECT block_size FROM pragma_database_size() WHERE database_name = current_database()) FROM pragma_metadata_info() WHERE free_blocks > 0")
	if err != nil {
		return err
	}
	defer r.close()
	b := append([]byte(journalMagic), make([]byte, head)...)
	if _, err := j.db.ReadAt(b[len(journalMagic):], 0); err != nil {
		return err
	}
	none := true
	for r.next() {
		none = false
		at, size := head+r.int(0)*r.int(1), int(r.int(1))
		b = binary.LittleEndian.AppendUint64(b, uint64(at))
		b = binary.LittleEndian.AppendUint64(b, uint64(size))
		b = append(b, make([]byte, size)...)
		if _, err := j.db.ReadAt(b[len(b)-size:], at); err != nil {
			return fmt.Errorf("block at %d: %w", at, err)
		}
	}
	if none {
		return nil
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	info, err := j.db.Stat()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, info.Mode().Perm())
	if errors.Is(err, os.ErrExist) {
		return exit.Errorf(exit.TryLater, "%s was left this moment by a process that was killed; run the command again", j.path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = lockfile.SyncDir(filepath.Dir(j.path))
	}
	return err
}

// close ends the journal of a database that was closed.
func (j *journal) close() {
	if j == nil {
		return
	}
	// Where another process has the database by now, it takes the journal away.
	if err := j.settle(); err != nil && !errors.Is(err, errLocked) {
		slog.Error("the journal stays", "error", err)
	}
	j.db.Close()
}
