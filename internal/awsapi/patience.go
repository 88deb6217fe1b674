package awsapi

import (
	"io"
	"net/http"
	"time"
)

// stall is how long a body that is larger than a call's may stand still.
const stall = 30 * time.Second

// PatientBody reads a request's body of any length, as long as it goes on coming: half a minute without a byte ends it.
func PatientBody(w http.ResponseWriter, r *http.Request) io.Reader {
	return &patientBody{r: r, control: http.NewResponseController(w)}
}

type patientBody struct {
	r       *http.Request
	control *http.ResponseController
}

func (p *patientBody) Read(b []byte) (int, error) {
	deadline := time.Now().Add(stall)
	if err := p.control.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	if err := p.control.SetWriteDeadline(deadline.Add(stall)); err != nil {
		return 0, err
	}
	return p.r.Body.Read(b)
}

// PatientWriter writes an answer of any length, as long as somebody goes on taking it.
func PatientWriter(w http.ResponseWriter) http.ResponseWriter {
	return patientWriter{w, http.NewResponseController(w)}
}

type patientWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (p patientWriter) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(stall)); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(b)
}

func (p patientWriter) Unwrap() http.ResponseWriter { return p.ResponseWriter }
