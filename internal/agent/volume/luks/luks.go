// Package luks writes empty encrypted disk images: qcow2 files that QEMU enciphers with LUKS, as `qemu-img create -o encrypt.format=luks` makes them.
//
// qemu-img measures for two seconds and a half how often the processor can hash, so that guessing a person's password takes long. Each snapshot begins a new layer and would
// take as long; and the passphrases here are keys of 256 random bits, which nobody guesses. So what is written is the same, with the fewest iterations that LUKS allows. The
// package enciphers none of a volume's bytes, and reads nothing: QEMU does.
package luks

import (
	"crypto/aes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/xts"
)

// The format of the enciphered bytes: LUKS 1 with the cipher that QEMU chooses.
const (
	cipherName = "aes"
	cipherMode = "xts-plain64"
	hashName   = "sha256"
	keyBytes   = 64 // of the key that enciphers the content: XTS has two
	iterations = 1000
	stripes    = 4000
	slots      = 8
	sector     = 512

	slotSectors   = 504 // from the beginning of one slot's key material to the next
	firstSlot     = 8   // sectors
	headerSectors = firstSlot + slots*slotSectors
	active        = 0x00ac71f3
	inactive      = 0x0000dead
	digestBytes   = 20
	saltBytes     = 32
)

// The layout of an image, in clusters: its header, the table of tables of references, the one that there is of these, the LUKS header, the table of
// tables of clusters.
const (
	cluster      = 64 << 10
	refTable     = 1
	refBlock     = 2
	luksHeader   = 3
	luksClusters = (headerSectors*sector + cluster - 1) / cluster
	l1Table      = luksHeader + luksClusters
	perL1        = cluster / 8 * cluster // bytes of content by an entry of the last
)

// MaxSize is how large an image's content can be, in bytes.
const MaxSize = 1 << 46

// Write writes an image of so many bytes, all zeros, that the passphrase opens, to an empty file.
func Write(f interface {
	io.WriterAt
	Truncate(size int64) error
}, size int64, passphrase string) error {
	if size < 1 || size > MaxSize || size%sector != 0 {
		return fmt.Errorf("an encrypted image of %d bytes can't be", size)
	}
	if passphrase == "" {
		return errors.New("an encrypted image needs a passphrase")
	}
	header, material, err := seal(passphrase)
	if err != nil {
		return err
	}
	entries := (size + perL1 - 1) / perL1
	end := l1Table + (entries*8+cluster-1)/cluster
	references := make([]byte, 2*end)
	for n := range end {
		binary.BigEndian.PutUint16(references[2*n:], 1)
	}
	for _, part := range []struct {
		at    int64
		bytes []byte
	}{
		{0, qcow2(size, entries)},
		{refTable * cluster, binary.BigEndian.AppendUint64(nil, refBlock*cluster)},
		{refBlock * cluster, references},
		{luksHeader * cluster, header},
		{luksHeader*cluster + firstSlot*sector, material},
	} {
		if _, err := f.WriteAt(part.bytes, part.at); err != nil {
			return err
		}
	}
	return f.Truncate(end * cluster)
}

// qcow2 is the header of the file.
func qcow2(size, entries int64) []byte {
	be := binary.BigEndian
	b := []byte("QFI\xfb")
	b = be.AppendUint32(b, 3)
	b = be.AppendUint64(b, 0) // no other file lies below
	b = be.AppendUint32(b, 0)
	b = be.AppendUint32(b, 16) // bits of a cluster's size
	b = be.AppendUint64(b, uint64(size))
	b = be.AppendUint32(b, 2) // LUKS
	b = be.AppendUint32(b, uint32(entries))
	b = be.AppendUint64(b, l1Table*cluster)
	b = be.AppendUint64(b, refTable*cluster)
	b = be.AppendUint32(b, 1)
	b = append(b, make([]byte, 4+8+3*8)...) // no snapshots, no features
	b = be.AppendUint32(b, 4)               // 16 bits a reference count
	b = be.AppendUint32(b, 104)             // that many bytes until here; then extensions
	b = be.AppendUint32(b, 0x0537be77)      // where the LUKS header is
	b = be.AppendUint32(b, 16)
	b = be.AppendUint64(b, luksHeader*cluster)
	b = be.AppendUint64(b, headerSectors*sector)
	return append(b, make([]byte, 8)...) // no more extensions
}

// seal makes a key and the LUKS header by which a passphrase opens it, with the first slot's material.
func seal(passphrase string) (header, material []byte, err error) {
	key, salts := random(keyBytes), random(2*saltBytes)
	digest, err := pbkdf2.Key(sha256.New, string(key), salts[:saltBytes], iterations, digestBytes)
	if err != nil {
		return nil, nil, err
	}
	be := binary.BigEndian
	b := []byte("LUKS\xba\xbe\x00\x01")
	for _, name := range []string{cipherName, cipherMode, hashName} {
		b = append(append(b, name...), make([]byte, 32-len(name))...)
	}
	b = be.AppendUint32(b, headerSectors)
	b = be.AppendUint32(b, keyBytes)
	b = append(append(b, digest...), salts[:saltBytes]...)
	b = be.AppendUint32(b, iterations)
	id := random(16)
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	b = append(b, fmt.Sprintf("%x-%x-%x-%x-%x\x00\x00\x00\x00", id[:4], id[4:6], id[6:8], id[8:10], id[10:])...)
	for n := range uint32(slots) {
		state, turns, salt := uint32(inactive), uint32(0), make([]byte, saltBytes)
		if n == 0 {
			state, turns, salt = active, iterations, salts[saltBytes:]
		}
		b = be.AppendUint32(be.AppendUint32(b, state), turns)
		b = append(b, salt...)
		b = be.AppendUint32(be.AppendUint32(b, firstSlot+n*slotSectors), stripes)
	}
	opener, err := pbkdf2.Key(sha256.New, passphrase, salts[saltBytes:], iterations, keyBytes)
	if err != nil {
		return nil, nil, err
	}
	c, err := xts.NewCipher(aes.NewCipher, opener)
	if err != nil {
		return nil, nil, err
	}
	material = split(key)
	for n := 0; n < len(material); n += sector {
		c.Encrypt(material[n:n+sector], material[n:n+sector], uint64(n/sector))
	}
	return b, material, nil
}

// split spreads a key over many stripes, each of which it takes to have it again: LUKS's anti-forensic splitter.
func split(key []byte) []byte {
	out := random(stripes * len(key))
	sum := make([]byte, len(key))
	for n := range stripes - 1 {
		for i := range sum {
			sum[i] ^= out[n*len(key)+i]
		}
		for i := 0; i < len(sum); i += sha256.Size {
			h := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uint32(i/sha256.Size)), sum[i:i+sha256.Size]...))
			copy(sum[i:], h[:])
		}
	}
	last := out[(stripes-1)*len(key):]
	for i := range last {
		last[i] = sum[i] ^ key[i]
	}
	return out
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
