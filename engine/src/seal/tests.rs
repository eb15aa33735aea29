//! Round trips, golden bytes, and everything that must not open.

use super::*;

fn master(fill: u8) -> MasterKey {
    MasterKey::new([fill; KEY_BYTES])
}

fn ring(keys: &[(&str, u8)]) -> Keyring {
    let keys = keys.iter().map(|(id, fill)| (id.parse().unwrap(), master(*fill)));
    Keyring::new(keys.collect()).unwrap()
}

fn key(fill: u8) -> SealKey {
    DataKey::new([fill; KEY_BYTES]).object_key(&[fill; SALT_BYTES], &[b"names"])
}

fn plain(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

/// Seals in pushes of about `step` bytes.
fn seal(key: SealKey, header: &[u8], bytes: &[u8], step: usize) -> Vec<u8> {
    let (mut sealer, mut out) = (PieceSealer::new(key, header), Vec::new());
    for run in bytes.chunks(step) {
        sealer.push(run, |piece| {
            assert_eq!(piece.len(), SEALED_PIECE_BYTES);
            out.extend_from_slice(&piece);
        });
    }
    out.extend_from_slice(&sealer.finish());
    out
}

fn open(key: SealKey, header: &[u8], bytes: &[u8], step: usize) -> Result<Vec<u8>, SealError> {
    let (mut opener, mut out) = (PieceOpener::new(key, header), Vec::new());
    for run in bytes.chunks(step) {
        opener.push(run, |piece| out.extend_from_slice(&piece))?;
    }
    out.extend_from_slice(&opener.finish()?);
    Ok(out)
}

#[test]
fn every_length_around_a_border_comes_back() {
    for border in [0, PIECE_BYTES, 2 * PIECE_BYTES] {
        for length in border.saturating_sub(17)..=border + 17 {
            let bytes = plain(length);
            let sealed = seal(key(1), b"header", &bytes, 300_001);
            assert_eq!(sealed.len() as u64, sealed_length(length as u64), "{length}");
            assert_eq!(open(key(1), b"header", &sealed, 400_009).unwrap(), bytes, "{length}");
        }
    }
}

#[test]
fn the_runs_do_not_matter() {
    let bytes = plain(2 * PIECE_BYTES + 5);
    let whole = seal(key(1), b"h", &bytes, bytes.len());
    for step in [4095, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, SEALED_PIECE_BYTES] {
        assert_eq!(seal(key(1), b"h", &bytes, step), whole);
        assert_eq!(open(key(1), b"h", &whole, step).unwrap(), bytes);
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for length in [0, 1, 40] {
        let sealed = seal(key(1), b"header", &plain(length), 64);
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(key(1), b"header", &bad, 64), Err(SealError::Piece { piece: 0 }));
        }
        assert!(open(key(2), b"header", &sealed, 64).is_err(), "another key");
        assert!(open(key(1), b"headed", &sealed, 64).is_err(), "another header");
    }
}

#[test]
fn what_is_cut_off_appended_swapped_or_doubled_is_refused() {
    let open = |bytes: &[u8]| open(key(1), b"h", bytes, 1 << 19);
    // The last piece once shorter than the others and once as long.
    for last in [100, PIECE_BYTES] {
        let sealed = seal(key(1), b"h", &plain(3 * PIECE_BYTES + last), 1 << 20);
        let piece = |at: usize| -> &[u8] {
            let from = at * SEALED_PIECE_BYTES;
            &sealed[from..sealed.len().min(from + SEALED_PIECE_BYTES)]
        };
        assert!(open(&sealed).is_ok());
        for border in 0..4 {
            let at = border * SEALED_PIECE_BYTES;
            for cut in [at, at + 1, at + TAG_BYTES, at + 50] {
                assert!(open(&sealed[..cut]).is_err(), "cut at {cut}");
            }
        }
        assert!(open(&sealed[..sealed.len() - 1]).is_err());
        assert!(open(&[&sealed[..], &[0]].concat()).is_err(), "a byte more");
        assert!(open(&[&sealed[..], piece(3)].concat()).is_err(), "a last piece more");
        assert!(open(&[&sealed[..], piece(0)].concat()).is_err(), "a first piece more");
        assert!(open(&[piece(1), piece(0), piece(2), piece(3)].concat()).is_err(), "swapped");
        assert!(open(&[piece(0), piece(2), piece(3)].concat()).is_err(), "one missing");
        assert!(open(&[piece(0), piece(0), piece(1), piece(2), piece(3)].concat()).is_err());
        assert!(open(&[piece(0), piece(1), piece(3), piece(2)].concat()).is_err(), "last swapped");
    }
    let other = DataKey::new([1; KEY_BYTES]).object_key(&[1; SALT_BYTES], &[b"name2"]);
    let (a, b) = (plain(PIECE_BYTES + 9), plain(PIECE_BYTES + 9));
    let (a, b) = (seal(key(1), b"h", &a, 1 << 20), seal(other, b"h", &b, 1 << 20));
    let mixed = [&a[..SEALED_PIECE_BYTES], &b[SEALED_PIECE_BYTES..]].concat();
    assert_eq!(open(&mixed), Err(SealError::Piece { piece: 1 }), "a piece of another object");
}

#[test]
fn only_one_piece_is_held() {
    let mut sealer = PieceSealer::new(key(1), b"h");
    let mut opener = PieceOpener::new(key(1), b"h");
    let mut given = 0;
    for _ in 0..40 {
        sealer.push(&plain(100_000), |piece| {
            opener.push(&piece, |piece| given += piece.len()).unwrap();
        });
        assert!(sealer.piece.capacity() <= SEALED_PIECE_BYTES);
        assert!(opener.piece.capacity() <= SEALED_PIECE_BYTES);
    }
    opener.push(&sealer.finish(), |piece| given += piece.len()).unwrap();
    given += opener.finish().unwrap().len();
    assert_eq!(given, 4_000_000);
}

#[test]
fn a_data_key_opens_only_with_its_key_and_its_context() {
    let keys = ring(&[("new", 1), ("old", 2)]);
    let data = DataKey::new([9; KEY_BYTES]);
    let wrapped = data.wrap(keys.active().unwrap(), [3; NONCE_BYTES], b"context");
    assert_eq!(wrapped.key_id.as_str(), "new");
    let opened = wrapped.unwrap(&keys, b"context").unwrap();
    let sealed = seal(data.object_key(&[0; SALT_BYTES], &[b"n"]), b"h", b"text", 64);
    assert!(open(opened.object_key(&[0; SALT_BYTES], &[b"n"]), b"h", &sealed, 64).is_ok());
    assert!(open(opened.object_key(&[1; SALT_BYTES], &[b"n"]), b"h", &sealed, 64).is_err());
    assert!(open(opened.object_key(&[0; SALT_BYTES], &[b"m"]), b"h", &sealed, 64).is_err());

    let id: KeyId = "new".parse().unwrap();
    let refused = |keys: &Keyring, context: &[u8]| wrapped.unwrap(keys, context).unwrap_err();
    assert_eq!(refused(&keys, b"another"), SealError::WrongKey { id: id.clone() });
    assert_eq!(refused(&ring(&[("new", 5)]), b"context"), SealError::WrongKey { id: id.clone() });
    assert_eq!(refused(&ring(&[("old", 1)]), b"context"), SealError::MissingKey { id: id.clone() });
    assert_eq!(refused(&Keyring::default(), b"context"), SealError::MissingKey { id: id.clone() });
    for bit in 0..WRAPPED_BYTES * 8 {
        let mut bad = wrapped.clone();
        bad.bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            bad.unwrap(&keys, b"context").unwrap_err(),
            SealError::WrongKey { id: id.clone() }
        );
    }
    assert_eq!(WrappedKey::new(id.clone(), &wrapped.bytes).unwrap(), wrapped);
    let short = WrappedKey::new(id, &wrapped.bytes[1..]);
    assert_eq!(short, Err(SealError::WrappedLength { found: WRAPPED_BYTES - 1 }));
}

#[test]
fn a_manifest_verifies_only_as_it_was_signed() {
    let key = DataKey::new([9; KEY_BYTES]).manifest_key();
    let auth = key.sign(b"manifest");
    assert!(key.verify(b"manifest", &auth));
    assert!(!key.verify(b"manifesT", &auth));
    assert!(!key.verify(b"manifest", &auth[1..]));
    assert!(!DataKey::new([8; KEY_BYTES]).manifest_key().verify(b"manifest", &auth));
    for bit in 0..AUTH_BYTES * 8 {
        let mut bad = auth;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(!key.verify(b"manifest", &bad));
    }
}

#[test]
fn key_ids_and_key_files_have_one_spelling() {
    for good in ["a", "2026-11", "Key_1.old", &"k".repeat(64)] {
        assert_eq!(good.parse::<KeyId>().unwrap().as_str(), good);
    }
    for bad in ["", "a b", "ä", "a=b", "a/b", &"k".repeat(65)] {
        assert!(matches!(bad.parse::<KeyId>(), Err(SealError::KeyId { .. })), "{bad}");
    }
    let text = master(0xab).to_file_text();
    assert_eq!(*text, format!("cutwater-key-v1 {}\n", "ab".repeat(32)));
    assert_eq!(MasterKey::from_file_text(&text).unwrap().bytes(), master(0xab).bytes());
    let hex = "ab".repeat(32);
    for bad in [
        String::new(),
        hex.clone(),
        format!("cutwater-key-v1 {hex}"),
        format!("cutwater-key-v2 {hex}\n"),
        format!("cutwater-key-v1 {hex}\n\n"),
        format!("cutwater-key-v1 {}\n", hex.to_uppercase()),
        format!("cutwater-key-v1 {}\n", &hex[1..]),
        format!("cutwater-key-v1  {hex}\n"),
    ] {
        assert_eq!(MasterKey::from_file_text(&bad).unwrap_err(), SealError::KeyText, "{bad:?}");
    }
}

#[test]
fn a_ring_has_no_id_twice_and_shows_no_key() {
    let id: KeyId = "a".parse().unwrap();
    let twice = Keyring::new(vec![(id.clone(), master(1)), (id.clone(), master(2))]);
    assert_eq!(twice.unwrap_err(), SealError::DuplicateKey { id: id.clone() });
    let keys = ring(&[("a", 0x41), ("b", 0x42)]);
    assert_eq!(keys.active().unwrap().0, &id);
    assert_eq!(keys.ids().map(KeyId::as_str).collect::<Vec<_>>(), ["a", "b"]);
    assert!(Keyring::default().is_empty() && Keyring::default().active().is_none());
    let data = DataKey::new([0x43; KEY_BYTES]);
    let shown = format!("{keys:?} {data:?} {:?} {:?}", data.manifest_key(), key(0x44));
    for fill in ["65", "66", "67", "41, 41", "4141"] {
        assert!(!shown.contains(fill), "{shown}");
    }
}

/// Fixed for ever: what is sealed today opens with every later version. The object key is checked
/// by what it seals.
#[test]
fn what_is_derived_stays_the_same() {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let data = DataKey::new([7; KEY_BYTES]);
    let wrapped = data.wrap(ring(&[("k", 1)]).active().unwrap(), [3; NONCE_BYTES], b"context");
    let key = data.object_key(&[5; SALT_BYTES], &[&[1; 16], &[2; 16], b"core-0.snap"]);
    let sealed = seal(key, b"header", b"text", 64);
    let auth = data.manifest_key().sign(b"manifest");
    let golden = include_str!("golden.txt");
    let made =
        format!("wrapped {}\nsealed {}\nauth {}\n", hex(&wrapped.bytes), hex(&sealed), hex(&auth));
    assert_eq!(made, golden);
}
