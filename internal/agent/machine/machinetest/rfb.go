package machinetest

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Screen is a client of the remote framebuffer protocol (RFC 6143), as little of it as tests need.
type Screen struct {
	Width, Height int
	Name          string
	conn          io.ReadWriter
}

// OpenScreen greets a server that asks for no password.
func OpenScreen(conn io.ReadWriter) (*Screen, error) {
	s := &Screen{conn: conn}
	version := make([]byte, 12)
	if _, err := io.ReadFull(conn, version); err != nil {
		return nil, fmt.Errorf("the server's version: %w", err)
	}
	if string(version) != "RFB 003.008\n" {
		return nil, fmt.Errorf("the server's version is %q", version)
	}
	security := make([]byte, 2)
	if _, err := conn.Write(version); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, security); err != nil || security[0] != 1 || security[1] != 1 {
		return nil, fmt.Errorf("the server's security is %v: %w", security, err)
	}
	result := make([]byte, 4)
	if _, err := conn.Write([]byte{1}); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, result); err != nil || binary.BigEndian.Uint32(result) != 0 {
		return nil, fmt.Errorf("the server refuses: %v, %w", result, err)
	}
	if _, err := conn.Write([]byte{0}); err != nil { // for itself alone, as viewers ask by default
		return nil, err
	}
	hello := make([]byte, 24)
	if _, err := io.ReadFull(conn, hello); err != nil {
		return nil, fmt.Errorf("the server's hello: %w", err)
	}
	s.Width, s.Height = int(binary.BigEndian.Uint16(hello)), int(binary.BigEndian.Uint16(hello[2:]))
	name := make([]byte, binary.BigEndian.Uint32(hello[20:]))
	if _, err := io.ReadFull(conn, name); err != nil {
		return nil, fmt.Errorf("the server's name: %w", err)
	}
	s.Name = string(name)
	// 32 bits a pixel, of which 24 count; then the encodings: raw.
	format := []byte{0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0}
	_, err := conn.Write(append(format, 2, 0, 0, 1, 0, 0, 0, 0))
	return s, err
}

// Lit counts the pixels of the whole screen that aren't black.
func (s *Screen) Lit() (int, error) {
	ask := binary.BigEndian.AppendUint16([]byte{3, 0, 0, 0, 0, 0}, uint16(s.Width))
	if _, err := s.conn.Write(binary.BigEndian.AppendUint16(ask, uint16(s.Height))); err != nil {
		return 0, err
	}
	for {
		head := make([]byte, 4)
		if _, err := io.ReadFull(s.conn, head[:1]); err != nil {
			return 0, err
		}
		switch head[0] {
		case 0:
		case 2: // bell
			continue
		default:
			return 0, fmt.Errorf("the server says %d", head[0])
		}
		if _, err := io.ReadFull(s.conn, head[1:]); err != nil {
			return 0, err
		}
		return s.rectangles(int(binary.BigEndian.Uint16(head[2:])))
	}
}

func (s *Screen) rectangles(n int) (lit int, err error) {
	for range n {
		r := make([]byte, 12)
		if _, err := io.ReadFull(s.conn, r); err != nil {
			return 0, err
		}
		if kind := binary.BigEndian.Uint32(r[8:]); kind != 0 {
			return 0, fmt.Errorf("a rectangle's encoding is %d", kind)
		}
		pixels := make([]byte, 4*int(binary.BigEndian.Uint16(r[4:]))*int(binary.BigEndian.Uint16(r[6:])))
		if _, err := io.ReadFull(s.conn, pixels); err != nil {
			return 0, err
		}
		for i := 0; i < len(pixels); i += 4 {
			if binary.LittleEndian.Uint32(pixels[i:])&0xffffff != 0 {
				lit++
			}
		}
	}
	return lit, nil
}

// Type presses and releases the key of each character.
func (s *Screen) Type(text string) error {
	for _, c := range text {
		for _, down := range []byte{1, 0} {
			if _, err := s.conn.Write(binary.BigEndian.AppendUint32([]byte{4, down, 0, 0}, uint32(c))); err != nil {
				return err
			}
		}
	}
	return nil
}
