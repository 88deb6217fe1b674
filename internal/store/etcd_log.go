package store

import (
	"context"
	"log/slog"
	"sync/atomic"

	"go.uber.org/zap/zapcore"
)

// etcdLog passes etcd's log entries on to a slog.Logger, from a level on that can rise and
// fall.
type etcdLog struct {
	logger *slog.Logger
	floor  atomic.Int32
	fields []zapcore.Field
	parent *etcdLog // whose floor counts, nil for its own
}

func (l *etcdLog) Enabled(level zapcore.Level) bool {
	if l.parent != nil {
		return l.parent.Enabled(level)
	}
	return level >= zapcore.Level(l.floor.Load())
}

func (l *etcdLog) With(fields []zapcore.Field) zapcore.Core {
	parent := l
	if l.parent != nil {
		parent = l.parent
	}
	return &etcdLog{logger: l.logger, parent: parent, fields: append(append([]zapcore.Field(nil), l.fields...), fields...)}
}

func (l *etcdLog) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if l.Enabled(entry.Level) {
		return checked.AddCore(entry, l)
	}
	return checked
}

// premature are what etcd says when it looks for its file format before its first commit of
// a term has reached the file. It looks again later; nothing is wrong.
var premature = map[string]bool{
	"Failed to detect schema version":  true,
	"failed to update storage version": true,
}

func (l *etcdLog) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	level := slogLevel(entry.Level)
	if premature[entry.Message] {
		level = slog.LevelDebug
	}
	encoded := zapcore.NewMapObjectEncoder()
	for _, f := range l.fields {
		f.AddTo(encoded)
	}
	for _, f := range fields {
		f.AddTo(encoded)
	}
	l.logger.LogAttrs(context.Background(), level, "etcd: "+entry.Message, slog.Any("details", encoded.Fields))
	return nil
}

func (l *etcdLog) Sync() error { return nil }

func slogLevel(level zapcore.Level) slog.Level {
	switch {
	case level >= zapcore.ErrorLevel:
		return slog.LevelError
	case level == zapcore.WarnLevel:
		return slog.LevelWarn
	case level == zapcore.InfoLevel:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}
