package emulator

import (
	"cmp"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// objectInsert makes an object from one request: its bytes, with uploadType=media,
// or its metadata and its bytes, with uploadType=multipart.
func (s *Server) objectInsert(w http.ResponseWriter, r *http.Request, c *call) error {
	q := r.URL.Query()
	spec, body := new(objectSpec), io.Reader(r.Body)
	switch q.Get("uploadType") {
	case "media":
		spec.ContentType = r.Header.Get("Content-Type")
	case "multipart":
		var err error
		if spec, body, err = objectParts(r); err != nil {
			return err
		}
	default:
		return errorf(http.StatusBadRequest, "Invalid upload type: '%s'", q.Get("uploadType"))
	}
	spec.hashHeader(r.Header)
	name := cmp.Or(q.Get("name"), spec.Name)
	if err := checkNames(c.bucket, name); err != nil {
		return err
	}
	path := s.objectPath(newID(20), ".tmp")
	defer os.Remove(path)
	if _, err := receive(path, body, -1); err != nil {
		return errorf(http.StatusBadRequest, "the body ended early: %v", err)
	}
	o, err := s.addObject(c.bucket, name, spec, q, path, false)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, o.reply(s.baseURL(r)))
	return nil
}

// objectParts reads the metadata of multipart/related, and returns the second part.
func objectParts(r *http.Request) (*objectSpec, io.Reader, error) {
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || params["boundary"] == "" {
		return nil, nil, errorf(http.StatusBadRequest, "Missing end boundary in multipart body.")
	}
	parts := multipart.NewReader(r.Body, params["boundary"])
	part, err := parts.NextRawPart()
	var meta []byte
	if err == nil {
		meta, err = io.ReadAll(io.LimitReader(part, maxBody))
	}
	if err != nil {
		return nil, nil, errorf(http.StatusBadRequest, "Malformed multipart body. %v", err)
	}
	spec, err := parseSpec(meta)
	if err != nil {
		return nil, nil, err
	}
	if part, err = parts.NextRawPart(); err != nil {
		return nil, nil, errorf(http.StatusBadRequest, "Malformed multipart body. %v", err)
	}
	spec.ContentType = cmp.Or(spec.ContentType, part.Header.Get("Content-Type"))
	return spec, part, nil
}

// receive appends body to a file. After most bytes it stops with errCut, unless
// most is negative.
func receive(path string, body io.Reader, most int64) (int64, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	if most >= 0 {
		body = io.LimitReader(body, most)
	}
	n, err := io.Copy(f, body)
	if err == nil && n == most {
		err = errCut
	}
	return n, cmp.Or(err, f.Close())
}

// objectStart begins a resumable upload.
func (s *Server) objectStart(w http.ResponseWriter, r *http.Request, c *call) error {
	meta, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return errorf(http.StatusBadRequest, "%v", err)
	}
	spec, err := parseSpec(meta)
	if err != nil {
		return err
	}
	spec.ContentType = cmp.Or(spec.ContentType, r.Header.Get("X-Upload-Content-Type"))
	q := r.URL.Query()
	u := &session{ID: newID(40), Bucket: c.bucket, Name: cmp.Or(q.Get("name"), spec.Name), Spec: *spec, Query: url.Values{}}
	for name, value := range q {
		if strings.HasPrefix(name, "if") {
			u.Query[name] = value
		}
	}
	if err := checkNames(u.Bucket, u.Name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The service may refuse at once what could not be completed.
	if err := conditions(u.Query, s.objects[u.Bucket+"/"+u.Name], false); err != nil {
		return err
	}
	if err := replaceFile(s.sessionPath(u.ID, ".json"), u); err != nil {
		return err
	}
	s.sessions[u.ID] = u
	w.Header().Set("Location", s.baseURL(r)+"/upload/storage/v1/b/"+url.PathEscape(u.Bucket)+"/o?uploadType=resumable&name="+
		url.QueryEscape(u.Name)+"&upload_id="+u.ID)
	w.Header().Set("X-GUploader-UploadID", u.ID)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
	return nil
}

// quantum is the size in which pieces of an upload are stored. Only the last piece
// of an object may have another size
// (cloud.google.com/storage/docs/performing-resumable-uploads).
const quantum = 256 << 10

// objectData handles a piece of a resumable upload, the question how much of it is
// stored (bytes */TOTAL), and its end by DELETE.
//
// A piece may begin with bytes that are stored already: they are ignored. Google's
// reply for a piece that begins later than the stored bytes end is not documented.
func (s *Server) objectData(w http.ResponseWriter, r *http.Request, c *call) error {
	s.mu.Lock()
	u := s.sessions[c.id]
	s.mu.Unlock()
	if u == nil {
		return errNoUpload(c.id)
	}
	u.busy.Lock() // the pieces of an upload are received one at a time
	defer u.busy.Unlock()
	w.Header().Set("X-GUploader-UploadID", u.ID)
	if r.Method == http.MethodDelete {
		return s.endSession(u)
	}
	if u.Done != nil {
		writeJSON(w, http.StatusOK, u.Done.reply(s.baseURL(r)))
		return nil
	}
	stored := int64(0)
	if info, err := os.Stat(s.sessionPath(u.ID, ".data")); err == nil {
		stored = info.Size()
	}
	piece, err := parsePiece(r.Header.Get("Content-Range"))
	if err != nil {
		return err
	}
	complete := piece.total == stored
	if !piece.asks {
		if piece.first > stored {
			return errorf(http.StatusBadRequest, "Invalid request. According to the Content-Range header, the upload offset is %d byte(s), which exceeds already uploaded size of %d byte(s).", piece.first, stored)
		}
		if stored, complete, err = s.receivePiece(u, piece, stored, r.Body, c.take); err != nil {
			return err
		}
	}
	if !complete {
		w.Header().Set("Content-Length", "0")
		if stored > 0 {
			w.Header().Set("Range", "bytes=0-"+strconv.FormatInt(stored-1, 10))
		}
		w.WriteHeader(http.StatusPermanentRedirect) // 308, which Cloud Storage calls Resume Incomplete
		return nil
	}
	u.Spec.hashHeader(r.Header)
	o, err := s.addObject(u.Bucket, u.Name, &u.Spec, u.Query, s.sessionPath(u.ID, ".data"), false)
	if err != nil {
		return err
	}
	u.Done = o
	if err := replaceFile(s.sessionPath(u.ID, ".json"), u); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, o.reply(s.baseURL(r)))
	return nil
}

// endSession answers 499, as Google does.
func (s *Server) endSession(u *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, u.ID)
	os.Remove(s.sessionPath(u.ID, ".json"))
	os.Remove(s.sessionPath(u.ID, ".data"))
	return errorf(499, "Client Closed Request")
}

// piece is a Content-Range: bytes FIRST-LAST/TOTAL. It asks how much is stored if
// FIRST-LAST is *. Google's JavaScript library also sends * for LAST.
type piece struct {
	asks        bool
	first, last int64 // last is -1 if the piece ends with the body
	total       int64 // -1 if it is not known yet, or unknownEnd
}

// unknownEnd is the total of an upload that ends with the body of its piece.
const unknownEnd = -2

func parsePiece(text string) (piece, error) {
	if text == "" {
		return piece{last: -1, total: unknownEnd}, nil
	}
	bad := errorf(http.StatusBadRequest, "Failed to parse Content-Range header.")
	span, total, ok := strings.Cut(strings.TrimPrefix(text, "bytes "), "/")
	if !ok || !strings.HasPrefix(text, "bytes ") {
		return piece{}, bad
	}
	p := piece{last: -1, total: -1}
	var err error
	if total != "*" {
		if p.total, err = strconv.ParseInt(total, 10, 64); err != nil || p.total < 0 {
			return p, bad
		}
	}
	if span == "*" {
		p.asks = true
		return p, nil
	}
	first, last, ok := strings.Cut(span, "-")
	if p.first, err = strconv.ParseInt(first, 10, 64); err != nil || !ok {
		return p, bad
	}
	if last == "*" {
		if p.total < 0 {
			p.total = unknownEnd
		}
		return p, nil
	}
	if p.last, err = strconv.ParseInt(last, 10, 64); err != nil || p.last < p.first || p.total >= 0 && p.last >= p.total {
		return p, bad
	}
	return p, nil
}

// receivePiece stores the bytes of a piece. It returns how many bytes are stored
// now, and whether the upload has ended with them. If the body ends early, or the
// piece is not the last one, whole quanta are stored.
func (s *Server) receivePiece(u *session, p piece, stored int64, body io.Reader, take int64) (now int64, last bool, err error) {
	again, err := io.CopyN(io.Discard, body, stored-p.first)
	if err == io.EOF && p.last >= 0 && p.first+again == p.last+1 {
		return stored, p.total == stored, nil // all of it was stored before
	}
	if take >= 0 {
		take = max(0, take-again)
	}
	path := s.sessionPath(u.ID, ".data")
	var n int64
	if err == nil {
		n, err = receive(path, body, take)
	}
	now = stored + n
	whole := err == nil && (p.last < 0 || now == p.last+1)
	if whole && (p.total == unknownEnd || p.total == now) {
		return now, true, nil
	}
	now = max(stored, now-now%quantum)
	if err := os.Truncate(path, now); err != nil && now > 0 {
		return stored, false, err
	}
	switch {
	case err != nil:
		panic(http.ErrAbortHandler) // the client has gone, or must believe that the server has
	case !whole:
		return now, false, errorf(http.StatusBadRequest, "the body does not have the length that the Content-Range says")
	}
	return now, false, nil
}
