package emulator

import (
	"cmp"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// This file and object_upload.go are Cloud Storage's JSON API
// (cloud.google.com/storage/docs/json_api/v1). Every bucket exists. A bucket has
// no versions: an object that is replaced or deleted cannot be read any more.
// Writes, deletes and lists are consistent at once, as at Google. The parameter
// fields is ignored.

// object is the content of objects/<id>.json. The bytes are in objects/<id>.data,
// and never change: another generation has another id.
type object struct {
	ID                         string
	Bucket, Name               string
	Generation, Metageneration int64
	ContentType                string
	Metadata                   map[string]string
	Size                       int64
	CRC32C, MD5                string // in base64
	Created, Updated           time.Time
}

// session is the content of sessions/<id>.json, of an upload of an object. The
// bytes received so far are in sessions/<id>.data. Their number is not stored
// elsewhere.
type session struct {
	ID, Bucket, Name string
	Spec             objectSpec
	Query            url.Values // with the preconditions, which are checked at the end
	Done             *object    // set when the upload is complete

	busy sync.Mutex // held while a piece is received
}

func (s *Server) objectPath(id, ext string) string  { return filepath.Join(s.dir, "objects", id+ext) }
func (s *Server) sessionPath(id, ext string) string { return filepath.Join(s.dir, "sessions", id+ext) }

func (s *Server) loadObjects() error {
	objects, err := readAll[object](filepath.Join(s.dir, "objects"))
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, o := range objects {
		s.generation = max(s.generation, o.Generation)
		// A server that was killed while it replaced an object left both.
		if other := s.objects[o.path()]; other == nil || other.Generation < o.Generation {
			s.objects[o.path()] = o
		}
	}
	for _, o := range s.objects {
		known[o.ID] = true
	}
	removeOthers(filepath.Join(s.dir, "objects"), func(id string) bool { return known[id] })
	sessions, err := readAll[session](filepath.Join(s.dir, "sessions"))
	if err != nil {
		return err
	}
	for _, u := range sessions {
		s.sessions[u.ID] = u
	}
	removeOthers(filepath.Join(s.dir, "sessions"), func(id string) bool { return s.sessions[id] != nil })
	return nil
}

func (o *object) path() string { return o.Bucket + "/" + o.Name }

// ---- routes and errors

func isStorage(op string) bool { return strings.HasPrefix(op, "object.") }

// matchedBody is the size of the largest body that a fault can match.
const matchedBody = 64 << 10

func (s *Server) routeStorage(r *http.Request, c *call) handler {
	path := r.URL.EscapedPath() // a name may have an escaped slash
	rest, isUpload := strings.CutPrefix(path, "/upload/storage/v1/b/")
	if !isUpload {
		var ok bool
		if rest, ok = strings.CutPrefix(strings.TrimPrefix(path, "/download"), "/storage/v1/b/"); !ok {
			return nil
		}
	}
	bucket, rest, _ := strings.Cut(rest, "/")
	collection, name, named := strings.Cut(rest, "/")
	var err error
	if c.bucket, err = url.PathUnescape(bucket); err != nil || collection != "o" {
		return nil
	}
	if c.object, err = url.PathUnescape(name); err != nil {
		return nil
	}
	q := r.URL.Query()
	set := func(op string, h handler) handler {
		c.op = op
		return h
	}
	switch {
	case isUpload && named:
		return nil
	case isUpload:
		c.object = q.Get("name")
		c.id = q.Get("upload_id")
		switch {
		case c.id != "" && (r.Method == http.MethodPut || r.Method == http.MethodDelete || r.Method == http.MethodPost):
			return set("object.data", s.objectData)
		case r.Method != http.MethodPost:
			return nil
		case q.Get("uploadType") == "resumable":
			return set("object.start", s.objectStart)
		}
		return set("object.insert", s.objectInsert)
	case !named && r.Method == http.MethodGet:
		return set("object.list", s.objectList)
	case !named:
		return nil
	case r.Method == http.MethodGet && q.Get("alt") == "media":
		return set("object.read", s.objectRead)
	case r.Method == http.MethodGet && path[1] == 's':
		return set("object.get", s.objectGet)
	case r.Method == http.MethodPatch:
		return set("object.patch", s.objectPatch)
	case r.Method == http.MethodDelete:
		return set("object.delete", s.objectDelete)
	}
	return nil
}

// objectName needs s.mu held. It returns the bucket and the name of the object of
// a call.
func (s *Server) objectName(c *call) string {
	if u := s.sessions[c.id]; u != nil {
		return u.Bucket + "/" + u.Name
	}
	return c.bucket + "/" + c.object
}

// reasons are the words of Cloud Storage for HTTP codes
// (cloud.google.com/storage/docs/json_api/v1/status-codes).
var reasons = map[int]string{
	304: "notModified", 400: "invalid", 401: "authError", 403: "forbidden", 404: "notFound", 408: "requestTimeout", 409: "conflict", 410: "gone",
	412: "conditionNotMet", 416: "requestedRangeNotSatisfiable", 429: "rateLimitExceeded",
}

// styled gives an error the form of the service that the call is for. The content
// of an object is not JSON, and so are the errors of its calls.
func (c *call) styled(err error) error {
	if !isStorage(c.op) {
		return err
	}
	e := *errorf(http.StatusInternalServerError, "%v", err)
	if a, ok := err.(*apiError); ok {
		e = *a
	}
	e.reason = cmp.Or(e.reason, reasons[e.code], "backendError")
	e.plain = e.plain || c.op == "object.read"
	return &e
}

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$`)

func checkNames(bucket, name string) error {
	switch {
	case !bucketName.MatchString(bucket):
		return errorf(http.StatusBadRequest, "Invalid bucket name: '%s'", bucket)
	case name == "":
		return &apiError{code: http.StatusBadRequest, message: "Required", reason: "required"}
	case len(name) > 1024 || !utf8.ValidString(name) || strings.ContainsAny(name, "\r\n") || name == "." || name == "..":
		return errorf(http.StatusBadRequest, "Invalid object name: '%s'", name)
	}
	return nil
}

// lookupObject needs s.mu held. It returns the live object of a call, or the
// error for an object that does not exist.
func (s *Server) lookupObject(c *call, q url.Values) (*object, error) {
	o := s.objects[c.bucket+"/"+c.object]
	if g := q.Get("generation"); o != nil && g != "" && g != strconv.FormatInt(o.Generation, 10) {
		o = nil
	}
	if o == nil {
		return nil, errorf(http.StatusNotFound, "No such object: %s/%s", c.bucket, c.object)
	}
	return o, nil
}

// object is lookupObject with the preconditions of a call.
func (s *Server) object(c *call, q url.Values, read bool) (*object, error) {
	o, err := s.lookupObject(c, q)
	if err == nil {
		err = conditions(q, o, read)
	}
	return o, err
}

// conditions checks the preconditions of a call. The object may be nil: its
// generation is 0.
func conditions(q url.Values, o *object, read bool) error {
	var generation, metageneration int64
	if o != nil {
		generation, metageneration = o.Generation, o.Metageneration
	}
	for _, p := range []struct {
		name  string
		value int64
		match bool
	}{
		{"ifGenerationMatch", generation, true}, {"ifGenerationNotMatch", generation, false},
		{"ifMetagenerationMatch", metageneration, true}, {"ifMetagenerationNotMatch", metageneration, false},
	} {
		text := q.Get(p.name)
		if text == "" {
			continue
		}
		want, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return errorf(http.StatusBadRequest, "Invalid value for %s: %s", p.name, text)
		}
		if (want == p.value) == p.match {
			continue
		}
		if read && !p.match {
			return errorf(http.StatusNotModified, "Not Modified")
		}
		return errorf(http.StatusPreconditionFailed, "At least one of the pre-conditions you specified did not hold.")
	}
	return nil
}

// ---- get, list, read, patch, delete

// reply is the JSON form of an object. An int64 is a string.
func (o *object) reply(base string) map[string]any {
	generation := strconv.FormatInt(o.Generation, 10)
	link := base + "/storage/v1/b/" + url.PathEscape(o.Bucket) + "/o/" + url.PathEscape(o.Name)
	m := map[string]any{
		"kind": "storage#object", "id": o.path() + "/" + generation, "selfLink": link,
		"mediaLink": strings.Replace(link, "/storage/", "/download/storage/", 1) + "?generation=" + generation + "&alt=media",
		"name":      o.Name, "bucket": o.Bucket, "generation": generation, "metageneration": strconv.FormatInt(o.Metageneration, 10),
		"contentType": o.ContentType, "storageClass": "STANDARD", "size": strconv.FormatInt(o.Size, 10),
		"md5Hash": o.MD5, "crc32c": o.CRC32C, "etag": o.etag(), "timeCreated": timestamp(o.Created), "updated": timestamp(o.Updated),
	}
	if len(o.Metadata) > 0 {
		m["metadata"] = o.Metadata
	}
	return m
}

func (o *object) etag() string {
	return base64.StdEncoding.EncodeToString(binary.AppendUvarint(binary.AppendUvarint(nil, uint64(o.Generation)), uint64(o.Metageneration)))
}

func (s *Server) objectGet(w http.ResponseWriter, r *http.Request, c *call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	o, err := s.object(c, q, true)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, o.reply(s.baseURL(r)))
	return nil
}

// objectList lists the objects of a bucket by name. The names with the delimiter
// after the prefix are summed up in prefixes. A page token is the last name, or
// prefix, of the page.
func (s *Server) objectList(w http.ResponseWriter, r *http.Request, c *call) error {
	q := r.URL.Query()
	if err := checkNames(c.bucket, "any"); err != nil {
		return err
	}
	most := 1000
	if v := q.Get("maxResults"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return errorf(http.StatusBadRequest, "Invalid value for maxResults: %s", v)
		}
		if n > 0 {
			most = min(n, most)
		}
	}
	after, err := base64.URLEncoding.DecodeString(q.Get("pageToken"))
	if err != nil {
		return errorf(http.StatusBadRequest, "Invalid page token")
	}
	prefix, delimiter := q.Get("prefix"), q.Get("delimiter")
	from, to := q.Get("startOffset"), q.Get("endOffset")

	s.mu.Lock()
	defer s.mu.Unlock()
	byName := map[string]*object{} // a prefix has a nil object
	for _, o := range s.objects {
		if o.Bucket != c.bucket || !strings.HasPrefix(o.Name, prefix) || o.Name < from || to != "" && o.Name >= to {
			continue
		}
		if delimiter != "" {
			if head, _, ok := strings.Cut(o.Name[len(prefix):], delimiter); ok {
				byName[prefix+head+delimiter] = nil
				continue
			}
		}
		byName[o.Name] = o
	}
	names := make([]string, 0, len(byName))
	for name := range byName {
		if name > string(after) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	reply := map[string]any{"kind": "storage#objects"}
	if len(names) > most {
		names = names[:most]
		reply["nextPageToken"] = base64.URLEncoding.EncodeToString([]byte(names[most-1]))
	}
	var items, prefixes []any
	for _, name := range names {
		if o := byName[name]; o != nil {
			items = append(items, o.reply(s.baseURL(r)))
		} else {
			prefixes = append(prefixes, name)
		}
	}
	if items != nil {
		reply["items"] = items
	}
	if prefixes != nil {
		reply["prefixes"] = prefixes
	}
	writeJSON(w, http.StatusOK, reply)
	return nil
}

// objectRead sends the bytes of an object, all or a Range.
func (s *Server) objectRead(w http.ResponseWriter, r *http.Request, c *call) error {
	s.mu.Lock()
	q := r.URL.Query()
	o, err := s.object(c, q, true)
	var data *os.File
	if err == nil {
		data, err = os.Open(s.objectPath(o.ID, ".data"))
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	defer data.Close()
	h := w.Header()
	h.Set("Content-Type", o.ContentType)
	h.Set("X-Goog-Generation", strconv.FormatInt(o.Generation, 10))
	h.Set("X-Goog-Metageneration", strconv.FormatInt(o.Metageneration, 10))
	h.Set("X-Goog-Hash", "crc32c="+o.CRC32C+",md5="+o.MD5)
	h.Set("X-Goog-Stored-Content-Encoding", "identity")
	h.Set("X-Goog-Stored-Content-Length", strconv.FormatInt(o.Size, 10))
	h.Set("X-Goog-Storage-Class", "STANDARD")
	h.Set("Etag", o.etag())
	return c.serve(w, r, o.Updated, data, o.Size)
}

func (s *Server) objectPatch(w http.ResponseWriter, r *http.Request, c *call) error {
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return errorf(http.StatusBadRequest, "%v", err)
	}
	var change struct {
		ContentType *string
		Metadata    map[string]*string
	}
	if err := json.Unmarshal(data, &change); err != nil {
		return errorf(http.StatusBadRequest, "Parse Error")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	o, err := s.object(c, q, false)
	if err != nil {
		return err
	}
	changed := *o
	if change.ContentType != nil {
		changed.ContentType = *change.ContentType
	}
	changed.Metadata = map[string]string{}
	for k, v := range o.Metadata {
		changed.Metadata[k] = v
	}
	for k, v := range change.Metadata {
		if v == nil {
			delete(changed.Metadata, k)
		} else {
			changed.Metadata[k] = *v
		}
	}
	changed.Metageneration++
	changed.Updated = time.Now()
	if err := replaceFile(s.objectPath(o.ID, ".json"), &changed); err != nil {
		return err
	}
	s.objects[o.path()] = &changed
	writeJSON(w, http.StatusOK, changed.reply(s.baseURL(r)))
	return nil
}

func (s *Server) objectDelete(w http.ResponseWriter, r *http.Request, c *call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	o, err := s.object(c, q, false)
	if err != nil {
		return err
	}
	if err := s.removeObject(o.ID); err != nil {
		return err
	}
	delete(s.objects, o.path())
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) removeObject(id string) error {
	if err := os.Remove(s.objectPath(id, ".json")); err != nil {
		return err
	}
	os.Remove(s.objectPath(id, ".data"))
	return nil
}

// ---- new objects

// objectSpec is the metadata that a caller may send with a new object.
type objectSpec struct {
	Name        string
	ContentType string
	Metadata    map[string]string
	CRC32C      string
	MD5Hash     string
}

// addObject makes the file at path the object bucket/name, if the preconditions
// of q hold. It checks the checksums of spec. The file is moved, unless keep is
// true: then it is linked.
func (s *Server) addObject(bucket, name string, spec *objectSpec, q url.Values, path string, keep bool) (*object, error) {
	crc, sum, size, err := checksums(path)
	switch {
	case err != nil:
		return nil, err
	case spec.CRC32C != "" && spec.CRC32C != crc:
		return nil, errorf(http.StatusBadRequest, "Provided CRC32C \"%s\" doesn't match calculated CRC32C \"%s\".", spec.CRC32C, crc)
	case spec.MD5Hash != "" && spec.MD5Hash != sum:
		return nil, errorf(http.StatusBadRequest, "Provided MD5 hash \"%s\" doesn't match calculated MD5 hash \"%s\".", spec.MD5Hash, sum)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.objects[bucket+"/"+name]
	if err := conditions(q, before, false); err != nil {
		return nil, err
	}
	s.generation = max(s.generation+1, time.Now().UnixMicro())
	o := &object{
		ID: newID(20), Bucket: bucket, Name: name, Generation: s.generation, Metageneration: 1,
		ContentType: cmp.Or(spec.ContentType, "application/octet-stream"), Metadata: spec.Metadata, Size: size, CRC32C: crc, MD5: sum,
		Created: time.Now(),
	}
	o.Updated = o.Created
	place := os.Rename
	if keep {
		place = os.Link
	}
	if err := place(path, s.objectPath(o.ID, ".data")); err != nil {
		return nil, err
	}
	if err := replaceFile(s.objectPath(o.ID, ".json"), o); err != nil {
		return nil, err
	}
	s.objects[o.path()] = o
	if before != nil {
		err = s.removeObject(before.ID)
	}
	return o, err
}

// checksums returns the CRC32C and the MD5 of a file, in base64, and its size. It
// creates a missing file, because an upload may have no bytes.
func checksums(path string) (crc, sum string, size int64, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return "", "", 0, err
	}
	defer f.Close()
	c, m := crc32.New(crc32.MakeTable(crc32.Castagnoli)), md5.New()
	size, err = io.Copy(io.MultiWriter(c, m), f)
	return base64.StdEncoding.EncodeToString(c.Sum(nil)), base64.StdEncoding.EncodeToString(m.Sum(nil)), size, err
}

// parseSpec reads the metadata of a new object.
func parseSpec(data []byte) (*objectSpec, error) {
	spec := new(objectSpec)
	if len(strings.TrimSpace(string(data))) == 0 {
		return spec, nil
	}
	if err := json.Unmarshal(data, spec); err != nil {
		return nil, errorf(http.StatusBadRequest, "Parse Error")
	}
	return spec, nil
}

// hashHeader adds the checksums of the header x-goog-hash to those of spec.
func (spec *objectSpec) hashHeader(h http.Header) {
	for _, list := range h.Values("X-Goog-Hash") {
		for word := range strings.SplitSeq(list, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(word), "=")
			switch name {
			case "crc32c":
				spec.CRC32C = value
			case "md5":
				spec.MD5Hash = value
			}
		}
	}
}

var errCut = errors.New("the connection is cut")

// errNoUpload is the answer for a session that does not exist. After a week
// Google answers 410.
func errNoUpload(id string) error {
	return errorf(http.StatusNotFound, "No such upload: %.20s", id)
}
