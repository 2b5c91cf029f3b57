package emulator

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
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

// fileLife is how long Google keeps a file.
const fileLife = 48 * time.Hour

const (
	uploaded  = "UPLOADED"
	generated = "GENERATED"
)

// file is the content of files/<id>.json.
type file struct {
	ID, Project           string
	Seq                   int64
	DisplayName, MimeType string
	Size                  int64
	SHA256                string // in hex; only for an uploaded file
	Source                string // uploaded or generated
	Upload                string // the id of its upload
	Polls                 int    // number of GETs and refused creates; on disk after the file is ACTIVE
	Created, Expires      time.Time
}

// upload is the content of uploads/<id>.json. The bytes received so far are in
// uploads/<id>.data. Their number is not stored elsewhere.
type upload struct {
	ID, Project                 string
	Name, DisplayName, MimeType string
	Length                      *int64 // declared number of bytes; nil if none was declared
	Created                     time.Time

	mu   sync.Mutex // held while one chunk is received
	file *file      // set when the upload is final
}

func (s *Server) filePath(id, ext string) string   { return filepath.Join(s.dir, "files", id+ext) }
func (s *Server) uploadPath(id, ext string) string { return filepath.Join(s.dir, "uploads", id+ext) }

func (s *Server) loadFiles() error {
	files, err := readAll[file](filepath.Join(s.dir, "files"))
	if err != nil {
		return err
	}
	uploads, err := readAll[upload](filepath.Join(s.dir, "uploads"))
	if err != nil {
		return err
	}
	for _, u := range uploads {
		s.uploads[u.ID] = u
	}
	for _, f := range files {
		s.files[f.ID] = f
		if f.Upload != "" {
			s.uploads[f.Upload] = &upload{ID: f.Upload, file: f}
		}
	}
	removeOthers(filepath.Join(s.dir, "files"), func(id string) bool { return s.files[id] != nil })
	removeOthers(filepath.Join(s.dir, "uploads"), func(id string) bool { return s.uploads[id] != nil && s.uploads[id].file == nil })
	return nil
}

// readAll decodes every *.json of a folder.
func readAll[T any](dir string) ([]*T, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var all []*T
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		v := new(T)
		if err := json.Unmarshal(data, v); err != nil {
			return nil, errors.New(name + ": " + err.Error())
		}
		all = append(all, v)
	}
	return all, nil
}

// removeOthers removes what a killed server left: temporary files, and data
// without its JSON.
func removeOthers(dir string, known func(id string) bool) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		id, ext, _ := strings.Cut(e.Name(), ".")
		if !known(id) || strings.HasSuffix(ext, "tmp") {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// fileReply needs s.mu held. It returns the REST form of a file. An int64 is a
// string. The hash is base64 of the hex digits, as in real replies. It is
// unknown whether a generated file has a hash. Here it has none, so that no
// client depends on it.
func (s *Server) fileReply(r *http.Request, f *file) map[string]any {
	base := s.baseURL(r)
	state := "ACTIVE"
	if s.processing(f) {
		state = "PROCESSING"
	}
	m := map[string]any{
		"name":           "files/" + f.ID,
		"mimeType":       f.MimeType,
		"sizeBytes":      strconv.FormatInt(f.Size, 10),
		"createTime":     timestamp(f.Created),
		"updateTime":     timestamp(f.Created),
		"expirationTime": timestamp(f.Expires),
		"uri":            base + "/v1beta/files/" + f.ID,
		"state":          state,
		"source":         f.Source,
	}
	if f.DisplayName != "" {
		m["displayName"] = f.DisplayName
	}
	if f.SHA256 != "" {
		m["sha256Hash"] = base64.StdEncoding.EncodeToString([]byte(f.SHA256))
	}
	if f.Source == generated {
		m["downloadUri"] = base + "/v1beta/files/" + f.ID + ":download?alt=media"
	}
	return m
}

// sendUploaded answers the call that made an upload final.
func (s *Server) sendUploaded(w http.ResponseWriter, r *http.Request, f *file) {
	s.mu.Lock()
	reply := s.fileReply(r, f)
	s.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]any{"file": reply})
}

// processing reports whether a file is PROCESSING: it is until it was polled
// Options.Processing times.
func (s *Server) processing(f *file) bool { return f.Source == uploaded && f.Polls < s.opts.Processing }

// pollFile needs s.mu held. It counts a call that found the file PROCESSING.
func (s *Server) pollFile(f *file) error {
	f.Polls++
	if s.processing(f) {
		return nil
	}
	return replaceFile(s.filePath(f.ID, ".json"), f)
}

// lookupFile needs s.mu held. For a file that does not exist Google answers 403,
// never 404.
func (s *Server) lookupFile(project, id string) (*file, error) {
	f := s.files[id]
	if f == nil || f.Project != project || time.Now().After(f.Expires) {
		return nil, errorf(http.StatusForbidden, "You do not have permission to access the File %s or it may not exist.", id)
	}
	return f, nil
}

// ---- upload

var fileID = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// checkFileID refuses an id that the metadata calls do not accept. Ids of result
// files have 42 characters, so they can only be downloaded
// (googleapis/python-genai, issues 1613 and 1759). Google's text about dashes is
// unknown.
func checkFileID(method, id string) error {
	const format = "* %s.name: File ID (name excluding 'files/') %s.\n"
	switch {
	case len(id) > 40:
		return errorf(http.StatusBadRequest, format, method, "cannot be more than 40 characters")
	case strings.HasPrefix(id, "-"), strings.HasSuffix(id, "-"):
		return errorf(http.StatusBadRequest, format, method, "cannot begin or end with a dash")
	}
	return nil
}

// maxDisplayName is Google's limit for the display name of a file, in
// characters (ai.google.dev/api/files).
const maxDisplayName = 512

// fileSpec is the metadata that a caller may send: {"file":{…}}, in both
// spellings of proto JSON. The JavaScript SDK also sends sizeBytes, which is
// ignored.
type fileSpec struct {
	File struct {
		Name         string
		DisplayName  string
		DisplayName2 string `json:"display_name"`
		MimeType     string
		MimeType2    string `json:"mime_type"`
	}
}

// newUpload checks the metadata and the name that the caller chose.
func (s *Server) newUpload(meta []byte, mimeType string, c *call) (*upload, error) {
	var spec fileSpec
	if len(strings.TrimSpace(string(meta))) > 0 {
		if err := json.Unmarshal(meta, &spec); err != nil {
			return nil, errorf(http.StatusBadRequest, "invalid file metadata: %v", err)
		}
	}
	u := &upload{ID: newID(32), Project: c.project, Created: time.Now()}
	u.DisplayName = spec.File.DisplayName + spec.File.DisplayName2
	if n := utf8.RuneCountInString(u.DisplayName); n > maxDisplayName {
		return nil, errorf(http.StatusBadRequest, "* CreateFileRequest.file.display_name: %d characters, cannot be more than %d.\n", n, maxDisplayName)
	}
	u.MimeType = spec.File.MimeType + spec.File.MimeType2
	if u.MimeType == "" {
		u.MimeType = mimeType
	}
	if u.MimeType == "" {
		u.MimeType = "application/octet-stream"
	}
	if spec.File.Name != "" {
		u.Name = strings.TrimPrefix(spec.File.Name, "files/")
		if len(u.Name) > 40 || !fileID.MatchString(u.Name) {
			return nil, errorf(http.StatusBadRequest, "bad file name %q: use files/ and up to 40 lower-case letters, digits and dashes", spec.File.Name)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return u, s.nameFree(u.Name)
}

// nameFree needs s.mu held. Google's reply for a name that is in use is unknown;
// 409 is the usual code.
func (s *Server) nameFree(id string) error {
	if id != "" && s.files[id] != nil {
		return errorf(http.StatusConflict, "file files/%s already exists", id)
	}
	return nil
}

// uploadStart starts a resumable upload, or receives a whole file as
// multipart/related.
func (s *Server) uploadStart(w http.ResponseWriter, r *http.Request, c *call) error {
	if r.URL.Query().Get("uploadType") == "multipart" || r.Header.Get("X-Goog-Upload-Protocol") == "multipart" {
		return s.uploadMultipart(w, r, c)
	}
	if p, cmd := r.Header.Get("X-Goog-Upload-Protocol"), r.Header.Get("X-Goog-Upload-Command"); p != "resumable" || cmd != "start" {
		return errorf(http.StatusBadRequest, "upload protocol %q, command %q: start with resumable and start", p, cmd)
	}
	var length *int64
	if text := r.Header.Get("X-Goog-Upload-Header-Content-Length"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		switch {
		case err != nil || n < 0:
			return errorf(http.StatusBadRequest, "bad content length %q", text)
		case n > s.opts.MaxFile:
			return s.tooLarge()
		}
		length = &n
	}
	meta, err := io.ReadAll(r.Body)
	if err != nil {
		return errorf(http.StatusBadRequest, "%v", err)
	}
	u, err := s.newUpload(meta, r.Header.Get("X-Goog-Upload-Header-Content-Type"), c)
	if err != nil {
		return err
	}
	u.Length = length
	s.mu.Lock()
	err = replaceFile(s.uploadPath(u.ID, ".json"), u)
	if err == nil {
		s.uploads[u.ID] = u
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	w.Header().Set("X-Goog-Upload-URL", s.baseURL(r)+"/upload/v1beta/files?upload_id="+u.ID+"&upload_protocol=resumable")
	w.Header().Set("X-Goog-Upload-Status", "active")
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

func (s *Server) tooLarge() error {
	return errorf(http.StatusBadRequest, "the file is larger than %d bytes", s.opts.MaxFile)
}

func (s *Server) uploadMultipart(w http.ResponseWriter, r *http.Request, c *call) error {
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || params["boundary"] == "" {
		return errorf(http.StatusBadRequest, "a multipart upload needs the content type multipart/related with a boundary")
	}
	parts := multipart.NewReader(r.Body, params["boundary"])
	part, err := parts.NextRawPart()
	if err != nil {
		return errorf(http.StatusBadRequest, "multipart upload: %v", err)
	}
	meta, err := io.ReadAll(io.LimitReader(part, maxBody))
	if err != nil {
		return errorf(http.StatusBadRequest, "multipart upload: %v", err)
	}
	if part, err = parts.NextRawPart(); err != nil {
		return errorf(http.StatusBadRequest, "multipart upload: no second part: %v", err)
	}
	u, err := s.newUpload(meta, part.Header.Get("Content-Type"), c)
	if err != nil {
		return err
	}
	_, err = s.receive(u, 0, part)
	var f *file
	if err == nil {
		f, err = s.finalize(u)
	}
	if err != nil {
		os.Remove(s.uploadPath(u.ID, ".data"))
		return err
	}
	s.sendUploaded(w, r, f)
	return nil
}

// uploadData handles one request of a resumable upload. Every reply has the
// state of the upload in X-Goog-Upload-Status (active, final, cancelled) and
// X-Goog-Upload-Size-Received.
func (s *Server) uploadData(w http.ResponseWriter, r *http.Request, c *call) error {
	s.mu.Lock()
	u := s.uploads[c.id]
	s.mu.Unlock()
	if u == nil {
		return errorf(http.StatusNotFound, "no such upload, or it was finished before the server started")
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	var commands []string
	for word := range strings.SplitSeq(r.Header.Get("X-Goog-Upload-Command"), ",") {
		commands = append(commands, strings.TrimSpace(word))
	}
	status := func(status string, size int64) {
		w.Header().Set("X-Goog-Upload-Status", status)
		w.Header().Set("X-Goog-Upload-Size-Received", strconv.FormatInt(size, 10))
	}
	if u.file != nil {
		status("final", u.file.Size)
		if !slices.Contains(commands, "query") {
			return errorf(http.StatusBadRequest, "the upload is already final")
		}
		s.sendUploaded(w, r, u.file)
		return nil
	}
	size := int64(0)
	if info, err := os.Stat(s.uploadPath(u.ID, ".data")); err == nil {
		size = info.Size()
	}
	status("active", size)
	for _, command := range commands {
		switch command {
		case "query":
		case "cancel":
			s.mu.Lock()
			delete(s.uploads, u.ID)
			s.mu.Unlock()
			os.Remove(s.uploadPath(u.ID, ".json"))
			os.Remove(s.uploadPath(u.ID, ".data"))
			status("cancelled", size)
		case "upload":
			if at := r.Header.Get("X-Goog-Upload-Offset"); at != strconv.FormatInt(size, 10) {
				return errorf(http.StatusBadRequest, "upload offset %q does not match the %d bytes received", at, size)
			}
			n, err := s.receive(u, size, r.Body)
			size += n
			status("active", size)
			if err != nil {
				return err
			}
		case "finalize":
			f, err := s.finalize(u)
			if err != nil {
				return err
			}
			status("final", size)
			s.sendUploaded(w, r, f)
			return nil
		default:
			return errorf(http.StatusBadRequest, "unknown upload command %q", command)
		}
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

// receive appends body to the bytes of an upload. The bytes that arrived before
// an error are kept, and the query command counts them.
func (s *Server) receive(u *upload, size int64, body io.Reader) (int64, error) {
	f, err := os.OpenFile(s.uploadPath(u.ID, ".data"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(f, io.LimitReader(body, s.opts.MaxFile-size+1))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && size+n > s.opts.MaxFile {
		err = s.tooLarge()
	}
	return n, err
}

// finalize turns an upload into a file. It refuses an upload whose size differs
// from the declared one. Google's text for that is unknown.
func (s *Server) finalize(u *upload) (*file, error) {
	data := s.uploadPath(u.ID, ".data")
	sum, size, err := hashFile(data)
	if err != nil {
		return nil, err
	}
	if u.Length != nil && *u.Length != size {
		return nil, errorf(http.StatusBadRequest, "%d bytes were uploaded, %d were declared", size, *u.Length)
	}
	f := &file{
		ID: u.Name, Project: u.Project, DisplayName: u.DisplayName, MimeType: u.MimeType,
		Size: size, SHA256: sum, Source: uploaded, Upload: u.ID, Created: time.Now(),
	}
	if f.ID == "" {
		f.ID = newID(16)
	}
	f.Expires = f.Created.Add(fileLife)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.nameFree(f.ID); err != nil {
		return nil, err
	}
	if err := s.addFile(f, data); err != nil {
		return nil, err
	}
	os.Remove(s.uploadPath(u.ID, ".json"))
	u.file = f
	return f, nil
}

// addFile needs s.mu held. It moves the data at path into place. Then it writes
// the JSON, which makes it a file.
func (s *Server) addFile(f *file, path string) error {
	if err := os.Rename(path, s.filePath(f.ID, ".data")); err != nil {
		return err
	}
	s.seq++
	f.Seq = s.seq
	if err := replaceFile(s.filePath(f.ID, ".json"), f); err != nil {
		return err
	}
	s.files[f.ID] = f
	return nil
}

// hashFile returns the SHA-256 in hex and the size. It creates a missing file,
// because an upload may have no bytes.
func hashFile(path string) (string, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), n, err
}

// ---- get, list, delete, download

func (s *Server) fileGet(w http.ResponseWriter, r *http.Request, c *call) error {
	if err := checkFileID("GetFileRequest", c.id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.lookupFile(c.project, c.id)
	if err != nil {
		return err
	}
	reply := s.fileReply(r, f)
	if s.processing(f) {
		if err := s.pollFile(f); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, reply)
	return nil
}

func (s *Server) fileList(w http.ResponseWriter, r *http.Request, c *call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var mine []*file
	for id := range s.files {
		if f, err := s.lookupFile(c.project, id); err == nil {
			mine = append(mine, f)
		}
	}
	slices.SortFunc(mine, func(a, b *file) int { return int(b.Seq - a.Seq) })
	shown, next, err := page(r, mine, func(f *file) int64 { return f.Seq }, 10, false)
	if err != nil {
		return err
	}
	reply := map[string]any{}
	var list []any
	for _, f := range shown {
		list = append(list, s.fileReply(r, f))
	}
	if list != nil {
		reply["files"] = list
	}
	if next != "" {
		reply["nextPageToken"] = next
	}
	writeJSON(w, http.StatusOK, reply)
	return nil
}

func (s *Server) fileDelete(w http.ResponseWriter, _ *http.Request, c *call) error {
	if err := checkFileID("DeleteFileRequest", c.id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.lookupFile(c.project, c.id); err != nil {
		return err
	}
	if err := os.Remove(s.filePath(c.id, ".json")); err != nil {
		return err
	}
	delete(s.files, c.id)
	os.Remove(s.filePath(c.id, ".data"))
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

// download sends the bytes of a generated file, all or a Range. Without alt=media
// it sends the metadata, not the content. An uploaded file cannot be downloaded
// (ai.google.dev/gemini-api/docs/files).
func (s *Server) download(w http.ResponseWriter, r *http.Request, c *call) error {
	s.mu.Lock()
	f, err := s.lookupFile(c.project, c.id)
	var data *os.File
	var metadata map[string]any
	if err == nil {
		metadata = s.fileReply(r, f)
		data, err = os.Open(s.filePath(c.id, ".data"))
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	defer data.Close()
	if r.URL.Query().Get("alt") != "media" {
		writeJSON(w, http.StatusOK, metadata)
		return nil
	}
	if f.Source != generated {
		return errorf(http.StatusBadRequest, "files/%s cannot be downloaded: it was uploaded, not generated", f.ID)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	return c.serve(w, r, f.Created, data, f.Size)
}

// serve sends the bytes of a file, all or a Range. With the fault short the file
// ends in the middle of a line: if the cut is between two lines, the file has one
// byte less.
func (c *call) serve(w http.ResponseWriter, r *http.Request, modified time.Time, data *os.File, size int64) error {
	if c.short < 0 {
		http.ServeContent(w, r, "", modified, data)
		return nil
	}
	n := min(c.short, size)
	if n > 0 {
		var last [1]byte
		if _, err := data.ReadAt(last[:], n-1); err == nil && last[0] == '\n' {
			n--
		}
	}
	http.ServeContent(w, r, "", modified, io.NewSectionReader(data, 0, n))
	return nil
}
