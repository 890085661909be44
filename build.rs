//! Puts the dashboard's style into its page and compresses the files, so that the server has them ready to send.

use std::io::Write;
use std::path::Path;
use std::{env, fs, io};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Where the files are; `http/dashboard.rs` names each of them.
const FOLDER: &str = "src/http/dashboard";
const PAGE: &str = "index.html";
const STYLE: &str = "style.css";
/// Where the style goes. A file of its own would be asked for before anything is seen.
const PLACE: &str = "<style></style>";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={FOLDER}");
    println!("cargo::rerun-if-changed=build.rs");
    let out = env::var_os("OUT_DIR").expect("cargo says where a build writes");
    let out = Path::new(&out);
    for entry in fs::read_dir(FOLDER)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let mut text = fs::read_to_string(&path)?;
        if name == PAGE {
            assert!(text.contains(PLACE), "{PAGE} has no {PLACE}");
            let style = fs::read_to_string(Path::new(FOLDER).join(STYLE))?;
            text = text.replacen(PLACE, &format!("<style>{style}</style>"), 1);
        }
        fs::write(out.join(name), &text)?;
        let file = fs::File::create(out.join(format!("{name}.gz")))?;
        // No time and no name go into its header: the same files make the same program.
        let mut gzip = GzEncoder::new(file, Compression::best());
        gzip.write_all(text.as_bytes())?;
        gzip.finish()?;
    }
    Ok(())
}
