package gbatch

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"gbatch/pkg/vector"
)

// maxCached is how many vectors the cache keeps: at most 160 MB.
const maxCached = 10_000

// A cache holds the vectors of questions, each in a file that only the user may
// read. The name of the file is the hash of the server and the request, so the cache
// holds no text, and no vector of an emulator is taken for Google's. A cache without a folder is always empty. What goes wrong with the cache
// is never an error: a text is embedded again.
type cache struct {
	dir    string
	server string
	most   int // files
	stored atomic.Bool
}

// openCache returns the cache in $XDG_CACHE_HOME/gbatch/embeddings.
func openCache(server *url.URL) *cache {
	home := os.Getenv("XDG_CACHE_HOME")
	if !filepath.IsAbs(home) { // the XDG specification says so
		user, err := os.UserHomeDir()
		if err != nil {
			return new(cache)
		}
		home = filepath.Join(user, ".cache")
	}
	dir := filepath.Join(home, "gbatch", "embeddings")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		slog.Debug("no cache", "error", err)
		return new(cache)
	}
	return &cache{dir: dir, server: server.String(), most: maxCached}
}

func (c *cache) path(request []byte) string {
	sum := sha256.Sum256(append([]byte(c.server+"\n"), request...))
	return filepath.Join(c.dir, hex.EncodeToString(sum[:]))
}

// get returns the vector of a request, or nil. A damaged file counts as missing.
func (c *cache) get(request []byte) []float32 {
	if c.dir == "" {
		return nil
	}
	path := c.path(request)
	data, err := os.ReadFile(path)
	if err != nil || len(data) <= sha256.Size {
		return nil
	}
	values, err := vector.DecodeBase64(nil, data[sha256.Size:])
	if sum := sha256.Sum256(data[sha256.Size:]); err != nil || !bytes.Equal(sum[:], data[:sha256.Size]) {
		return nil
	}
	now := time.Now()
	os.Chtimes(path, now, now) // the oldest files are removed first
	return values
}

// put stores the vector of a request: the hash of the values, and the values.
func (c *cache) put(request []byte, values []float32) {
	if c.dir == "" {
		return
	}
	text := vector.AppendBase64(nil, values)
	sum := sha256.Sum256(text)
	f, err := os.CreateTemp(c.dir, "new-*") // with mode 0600
	if err == nil {
		_, err = f.Write(append(sum[:], text...))
		if err = cmp.Or(err, f.Close()); err == nil {
			err = os.Rename(f.Name(), c.path(request))
		}
		if err != nil {
			os.Remove(f.Name())
		}
	}
	if c.stored.Store(true); err != nil {
		slog.Debug("not cached", "error", err)
	}
}

// prune removes the files that were not used for the longest time.
func (c *cache) prune() {
	if !c.stored.Load() {
		return
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil || len(entries) <= c.most {
		return
	}
	times := make(map[string]time.Time, len(entries))
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			times[e.Name()] = info.ModTime()
		}
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return times[a.Name()].Compare(times[b.Name()]) })
	for _, e := range entries[:len(entries)-c.most*9/10] {
		os.Remove(filepath.Join(c.dir, e.Name()))
	}
}
